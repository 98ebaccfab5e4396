"""How sure the segmenter is of an image: what a person should label next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEP = 0.1


def certainty_of(score: npt.NDArray[np.float32], threshold: float) -> float:
    """How little the regions of an image would change with the threshold.

    With S(t) the pixels that score at least t, it is ``|S(t + 0.1)| / |S(t - 0.1)|``: the
    intersection over union of what a stricter and a more generous threshold would propose, called
    "stability score" by Segment Anything. An image in which even the generous one finds nothing
    is certain.

    Args:
        score: Greatest score over the classes, (H, W) in [0, 1].
        threshold: The one in use, 0 to 1.

    Returns:
        0 (label this one next) to 1.
    """
    strict = int((score >= threshold + _STEP).sum())
    generous = int((score >= threshold - _STEP).sum())
    return strict / generous if generous else 1.0
