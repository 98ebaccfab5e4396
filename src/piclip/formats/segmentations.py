"""Turn predictions into labels, so that every format can write them.

>>> labels = Labels(names, tuple(from_segmentation(s) for s in found))   # doctest: +SKIP
>>> write_labels(labels, "proposals.json", format="coco")                # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from piclip.formats import coco, yolo
from piclip.formats.extras import library
from piclip.formats.labels import LabelledFile, Labels, Region
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import IGNORE
from piclip.results import Segmentation

if TYPE_CHECKING:
    from supervision import Detections

_DIGITS = 4
_TOUCHING = np.ones((3, 3), dtype=np.bool_)


def from_segmentation(
    segmentation: Segmentation,
    path: str | None = None,
    *,
    instances: bool = True,
    min_area: int = 1,
    source: str | None = None,
) -> LabelledFile:
    """Take the regions of a prediction.

    Args:
        segmentation: What was predicted for one image.
        path: The image's path relative to the folder of images; the segmentation's name without it.
        instances: Each connected part (pixels that touch at a side or a corner) is a region, or
            else all pixels of a class.
        min_area: Regions with fewer pixels are left out.
        source: How the labelling tool names the image, if not by its path.

    Returns:
        The image with its regions class by class, each with its mean score (four digits).
    """
    regions = []
    for index, name in enumerate(segmentation.class_names):
        mask = segmentation.mask_of(name)
        parts, count = ndimage.label(mask, structure=_TOUCHING) if instances else (mask, 1)
        for part in range(1, count + 1):
            pixels = np.asarray(parts == part)
            area = int(pixels.sum())
            if area == 0 or area < min_area:
                continue
            score = round(float(segmentation.scores[index][pixels].mean()), _DIGITS)
            regions.append(Region(name, RunLengthMask.from_array(pixels), score=score))
    unknown = segmentation.class_map == IGNORE
    return LabelledFile(
        path or segmentation.name,
        *segmentation.size,
        regions=tuple(regions),
        ignore=RunLengthMask.from_array(unknown) if unknown.any() else None,
        source=source,
    )


def to_coco(
    segmentation: Segmentation, file_name: str | None, *, instances: bool, polygons: bool
) -> dict[str, Any]:
    """The body of `Segmentation.to_coco`."""
    file = from_segmentation(segmentation, file_name, instances=instances)
    return coco.to_dict(Labels(segmentation.class_names, (file,)), polygons=polygons)


def to_yolo(segmentation: Segmentation, *, instances: bool) -> str:
    """The body of `Segmentation.to_yolo`."""
    file = from_segmentation(segmentation, instances=instances)
    return yolo.to_text(file, segmentation.class_names)


def to_detections(segmentation: Segmentation, *, instances: bool) -> Detections:
    """The body of `Segmentation.to_supervision`."""
    supervision = library("supervision")
    regions = from_segmentation(segmentation, instances=instances).regions
    masks = np.zeros((len(regions), *segmentation.size), dtype=np.bool_)
    for index, region in enumerate(regions):
        masks[index] = region.mask.to_array()
    names = [region.class_name for region in regions]
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32).reshape(-1, 4),
        mask=masks,
        confidence=np.array([region.score for region in regions], dtype=np.float32),
        class_id=np.array([segmentation.class_names.index(n) for n in names], dtype=np.int64),
        data={"class_name": np.array(names, dtype=np.str_)},
    )
