"""Metrics of few-shot segmentation, accumulated over episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from piclip.errors import UsageError
from piclip.io.images import IGNORE


class ClassIoU:
    """Class-accumulated mIoU: intersections and unions are summed per class over all episodes.

    ``mIoU = mean over classes of (sum of intersections / sum of unions)``, the protocol of
    PASCAL-5i and COCO-20i; it is not a mean of per-image IoU.
    """

    def __init__(self, classes: Sequence[str], thresholds: Sequence[float] = (0.5,)) -> None:
        self.classes = tuple(classes)
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        shape = (len(self.classes), len(self.thresholds))
        self.intersection = np.zeros(shape, dtype=np.int64)
        self.union = np.zeros(shape, dtype=np.int64)

    def add(self, name: str, score: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> None:
        """Counts one image.

        Args:
            name: The class.
            score: Of any shape; leave pixels out that are to be ignored.
            truth: Where the class is, bool, of the same shape.
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


class FewShotIoU:
    """Per-class IoU, mIoU and FB-IoU of binary predictions, as few-shot papers report them.

    With the intersections and unions of foreground and background summed over all episodes of a
    class, ``IoU_c = I_c(fg) / U_c(fg)``, ``mIoU = mean over classes of IoU_c`` and
    ``FB-IoU = (sum_c I_c(fg) / sum_c U_c(fg) + sum_c I_c(bg) / sum_c U_c(bg)) / 2``: for FB-IoU the
    classes are pooled before the division. Pixels whose truth is 255 count nowhere. Counts are
    integers, so the order in which episodes come cannot change a digit.

    Attributes:
        classes: Names of the C classes.
        intersection: int64 (C, 2); column 0 is background, 1 foreground.
        union: int64 (C, 2), the same.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        shape = (len(self.classes), 2)
        self.intersection: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self.union: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)

    def add(
        self, name: str, prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.uint8]
    ) -> None:
        """Counts one episode.

        Args:
            name: The class.
            prediction: Where the class is said to be, bool (H, W).
            truth: uint8 (H, W): 1 the class, 0 anything else, 255 ignore.

        Raises:
            UsageError: Shapes that differ, values other than 0, 1 and 255, or an unknown class.
        """
        if prediction.shape != truth.shape:
            raise UsageError(
                f"The prediction has the shape {prediction.shape} but the truth has {truth.shape}."
            )
        if name not in self.classes:
            raise UsageError(f"The class {name!r} is not counted here; it was not named before.")
        predicted = prediction.astype(np.intp)
        # Histogram of (truth, prediction); ignored pixels fall into none of the four cells.
        cells = np.bincount((2 * truth.astype(np.intp) + predicted).ravel(), minlength=4)
        if cells[4 : 2 * IGNORE].any() or len(cells) > 2 * IGNORE + 2:
            raise UsageError("A truth of an episode holds 0, 1 and 255 (ignore) only.")
        (true_background, false_foreground), (false_background, true_foreground) = (
            cells[:4].reshape(2, 2).tolist()
        )
        wrong = false_foreground + false_background
        row = self.classes.index(name)
        self.intersection[row] += (true_background, true_foreground)
        self.union[row] += (true_background + wrong, true_foreground + wrong)

    def merge(self, other: FewShotIoU) -> None:
        """Adds what another counter of the same classes has counted."""
        if other.classes != self.classes:
            raise UsageError("Only counts of the same classes can be merged.")
        self.intersection += other.intersection
        self.union += other.union

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which classes had an episode, bool (C,)."""
        return np.asarray(self.union.any(axis=1))

    def per_class(self) -> npt.NDArray[np.float64]:
        """Foreground IoU of each class in [0, 1], (C,); NaN for a class without episodes."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.intersection[:, 1] / self.union[:, 1])

    def miou(self) -> float:
        """Mean of `per_class` over the classes that had episodes, in [0, 1]."""
        figures = self.per_class()
        if np.isnan(figures).all():
            raise UsageError("There is no mIoU of no episodes; add at least one.")
        return float(np.nanmean(figures))

    def fb_iou(self) -> float:
        """Mean of the pooled foreground and background IoU, in [0, 1]."""
        if not self.seen.any():
            raise UsageError("There is no FB-IoU of no episodes; add at least one.")
        intersection, union = self.intersection.sum(axis=0), self.union.sum(axis=0)
        return float(np.mean(intersection[union > 0] / union[union > 0]))


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
