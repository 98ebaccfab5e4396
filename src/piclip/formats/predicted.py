"""Turn predictions into labels, so that every format can write them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from piclip.formats.cleaning import TOUCHING, least_area
from piclip.formats.labels import LabelledFile, Region
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import IGNORE

_DIGITS = 4


class Prediction(Protocol):
    """What is read of a `piclip.Segmentation`."""

    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102 - that of Segmentation, as the others
    @property
    def class_map(self) -> npt.NDArray[np.uint8]: ...  # noqa: D102
    @property
    def presence_by_class(self) -> dict[str, float] | None: ...  # noqa: D102
    @property
    def file_name(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102
    def mask_of(self, class_name: str) -> npt.NDArray[np.bool_]: ...  # noqa: D102
    def score_of(self, class_name: str) -> npt.NDArray[np.float32]: ...  # noqa: D102


def from_segmentation(
    segmentation: Prediction,
    path: str | None = None,
    *,
    instances: bool = True,
    min_area: float | str = 1,
    source: str | None = None,
) -> LabelledFile:
    """Take the regions of a prediction.

    Args:
        segmentation: What was predicted for one image.
        path: The image's path relative to the folder of images; the name of its file without it.
        instances: Each connected part (pixels that touch at a side or a corner) is a region, or
            else all pixels of a class.
        min_area: Regions with fewer pixels are left out; a number, or a text such as "0.1%" of the
            image's pixels.
        source: How the labelling tool names the image, if not by its path.

    Returns:
        The image with its regions class by class, each with its mean score (four digits), and how
        likely each class is to be in it.
    """
    regions = []
    least = least_area(min_area, segmentation.size)
    for name in segmentation.class_names:
        mask = segmentation.mask_of(name)
        if not mask.any():
            continue
        scores = segmentation.score_of(name)
        parts = ndimage.label(mask, structure=TOUCHING)[0] if instances else mask.astype(np.uint8)
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            pixels = parts[box] == part
            if pixels.sum() < least:
                continue
            score = round(float(scores[box][pixels].mean()), _DIGITS)
            corner = (box[0].start, box[1].start)
            whole = RunLengthMask.from_box(pixels, corner, segmentation.size)
            regions.append(Region(name, whole, score=score))
    unknown = segmentation.class_map == IGNORE
    return LabelledFile(
        path or segmentation.file_name,
        *segmentation.size,
        regions=tuple(regions),
        ignore=RunLengthMask.from_array(unknown) if unknown.any() else None,
        source=source,
        presence=segmentation.presence_by_class,
    )
