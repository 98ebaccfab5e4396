"""Metrics of few-shot segmentation, accumulated over episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piclip.errors import UsageError


class ClassIoU:
    """Class-accumulated mIoU: intersections and unions are summed per class over all episodes.

    ``mIoU = mean over classes of (sum of intersections / sum of unions)``, the protocol of
    PASCAL-5i and COCO-20i; it is not a mean of per-image IoU.
    """

    def __init__(self, classes: Sequence[str], thresholds: Sequence[float] = (0.5,)) -> None:
        """Counts for each class at each threshold of the score (``score >= threshold``)."""
        self.classes = tuple(classes)
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        shape = (len(self.classes), len(self.thresholds))
        self.intersection = np.zeros(shape, dtype=np.int64)
        self.union = np.zeros(shape, dtype=np.int64)

    def add(self, name: str, score: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> None:
        """Counts one image.

        Args:
            name: The class.
            score: (H, W).
            truth: Where the class is, bool (H, W).
        """
        if score.shape != truth.shape:
            raise UsageError(
                f"The score has the shape {score.shape} but the truth has {truth.shape}."
            )
        row = self.classes.index(name)
        # One sort-free pass: how many thresholds each pixel reaches, then cumulated from the top.
        reached = np.searchsorted(self.thresholds, score.ravel(), side="right")
        bins = len(self.thresholds) + 1
        inside = np.bincount(reached[truth.ravel()], minlength=bins)[::-1].cumsum()[::-1][1:]
        predicted = np.bincount(reached, minlength=bins)[::-1].cumsum()[::-1][1:]
        self.intersection[row] += inside
        self.union[row] += predicted + int(truth.sum()) - inside

    def merge(self, other: ClassIoU) -> None:
        """Adds what another counter with the same classes and thresholds has counted."""
        if other.classes != self.classes or len(other.thresholds) != len(self.thresholds):
            raise UsageError("Only counts of the same classes and thresholds can be merged.")
        self.intersection += other.intersection
        self.union += other.union

    def per_class(self) -> npt.NDArray[np.float64]:
        """IoU of each class at each threshold, (classes, thresholds); NaN for an unseen class."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.intersection / self.union

    def miou(self) -> npt.NDArray[np.float64]:
        """Class mean at each threshold over the classes that occurred, in [0, 1], (thresholds,)."""
        seen = self.union.max(axis=1) > 0
        if not seen.any():
            raise UsageError("There is no mIoU of no images; add at least one.")
        return np.asarray(self.per_class()[seen].mean(axis=0))


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t) over repeated runs.

    Args:
        values: One figure per seed; the half-width is NaN for a single one.
    """
    from scipy import stats  # noqa: PLC0415 - slow to import

    figures = np.asarray(values, dtype=np.float64)
    if len(figures) < 2:
        return float(figures.mean()), math.nan
    error = figures.std(ddof=1) / math.sqrt(len(figures))
    return float(figures.mean()), float(stats.t.ppf(0.975, len(figures) - 1) * error)
