"""Metrics of few-shot segmentation, accumulated over episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piclip.errors import UsageError
from piclip.io.images import IGNORE

THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))
"""Where a map is cut while its best threshold is looked for."""


class FewShotIoU:
    """Per-class IoU, mIoU and FB-IoU of one class in each image, as few-shot papers report them.

    With the intersections and unions of foreground and background summed over all episodes of a
    class, ``IoU_c = I_c(fg) / U_c(fg)``, ``mIoU = mean over classes of IoU_c`` (the protocol of
    PASCAL-5i and COCO-20i; not a mean of per-image IoU) and
    ``FB-IoU = (sum_c I_c(fg) / sum_c U_c(fg) + sum_c I_c(bg) / sum_c U_c(bg)) / 2``: for FB-IoU the
    classes are pooled before the division. Pixels whose truth is 255 count nowhere. Counts are
    integers, so the order in which episodes come cannot change a digit.

    Figures are asked for by the number of their threshold, by default the first.

    Args:
        classes: Names of the C classes.
        thresholds: T least scores of the class, ascending; the default is for masks.

    Attributes:
        intersection: int64 (C, 2, T); row 0 of a class is background, 1 foreground.
        union: int64 (C, 2, T), the same.
    """

    def __init__(self, classes: Sequence[str], thresholds: Sequence[float] = (0.5,)) -> None:
        self.classes, self.thresholds = tuple(classes), tuple(thresholds)
        shape = (len(self.classes), 2, len(self.thresholds))
        self.intersection: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self.union: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)

    def add(
        self,
        name: str,
        prediction: npt.NDArray[np.bool_] | npt.NDArray[np.float32],
        truth: npt.NDArray[np.uint8],
    ) -> None:
        """Counts one episode of a class.

        The prediction are scores, float32 (H, W), or a mask, bool (H, W); the truth is uint8
        (H, W): 1 the class, 0 anything else, 255 ignore.

        Raises:
            UsageError: Shapes that differ, values other than 0, 1 and 255, or an unknown class.
        """
        if prediction.shape != truth.shape:
            raise UsageError(
                f"The prediction has the shape {prediction.shape} but the truth has {truth.shape}."
            )
        if name not in self.classes:
            raise UsageError(f"The class {name!r} is not counted here; it was not named before.")
        counted = truth != IGNORE
        inside = truth[counted].astype(np.intp)
        if (inside > 1).any():
            raise UsageError("A truth of an episode holds 0, 1 and 255 (ignore) only.")
        # How many thresholds each pixel reaches, summed from the top: what each threshold cuts out.
        thresholds = np.asarray(self.thresholds, dtype=np.float32)
        scores = prediction[counted].astype(np.float32)
        bins = len(thresholds) + 1
        reached = np.searchsorted(thresholds, scores, side="right")
        cells = np.bincount(bins * inside + reached, minlength=2 * bins).reshape(2, bins)
        false, hit = cells[:, ::-1].cumsum(axis=1)[:, -2::-1]
        background, foreground = cells.sum(axis=1)
        row = self.classes.index(name)
        self.intersection[row] += (background - false, hit)
        self.union[row] += (background + foreground - hit, foreground + false)

    def merge(self, other: FewShotIoU) -> None:
        """Adds what another counter of the same classes and thresholds has counted."""
        if (other.classes, other.thresholds) != (self.classes, self.thresholds):
            raise UsageError("Only counts of the same classes and thresholds can be merged.")
        self.intersection += other.intersection
        self.union += other.union

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which classes had an episode, bool (C,)."""
        return np.asarray(self.union.any(axis=(1, 2)))

    def per_class(self, at: int = 0) -> npt.NDArray[np.float64]:
        """Foreground IoU of each class in [0, 1], (C,); NaN for a class without episodes."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.intersection[:, 1, at] / self.union[:, 1, at])

    def miou(self, at: int = 0, *, unseen: float = math.nan) -> float:
        """Mean of `per_class`, in [0, 1]; a class without episodes counts as ``unseen``.

        Raises:
            UsageError: No class had an episode.
        """
        figures = self.per_class(at)
        if np.isnan(figures).all():
            raise UsageError("There is no mIoU of no episodes; add at least one.")
        return float(np.nanmean(np.nan_to_num(figures, nan=unseen)))

    def fb_iou(self, at: int = 0) -> float:
        """Mean of the pooled foreground and background IoU, in [0, 1]."""
        if not self.seen.any():
            raise UsageError("There is no FB-IoU of no episodes; add at least one.")
        intersection = self.intersection[:, :, at].sum(axis=0)
        union = self.union[:, :, at].sum(axis=0)
        return float(np.mean(intersection[union > 0] / union[union > 0]))

    def mious(self) -> list[float]:
        """The mIoU at every threshold, T figures in [0, 1]."""
        return [self.miou(at) for at in range(len(self.thresholds))]

    def best_threshold(self) -> float:
        """The threshold with the highest mIoU, the lowest of several."""
        return self.thresholds[int(np.argmax(self.mious()))]


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t) over seeds; NaN for a single one."""
    from scipy import stats  # noqa: PLC0415 - slow to import

    figures = np.asarray(values, dtype=np.float64)
    if len(figures) < 2:
        return float(figures.mean()), math.nan
    error = figures.std(ddof=1) / math.sqrt(len(figures))
    return float(figures.mean()), float(stats.t.ppf(0.975, len(figures) - 1) * error)
