"""How sure the segmenter is of an image: what a person should label next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def certainty_of(score: npt.NDArray[np.float32], threshold: float) -> float:
    """The mean score of the pixels that are proposed, or how little any pixel comes near it.

    Args:
        score: Greatest score over the classes, (H, W) in [0, 1].
        threshold: The least score of a proposed pixel, 0 to 1.

    Returns:
        The mean over the pixels that score at least the threshold; without any, one minus the
        greatest score. 0 (label this image next) to 1.
    """
    proposed = score >= threshold
    value = score[proposed].mean() if proposed.any() else 1 - score.max()
    return float(value)
