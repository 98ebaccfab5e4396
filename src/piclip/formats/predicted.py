"""Turn predictions into labels, so that every format can write them, and into COCO at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from piclip.errors import UsageError
from piclip.formats import coco
from piclip.formats.cleaning import TOUCHING, least_area
from piclip.formats.labels import LabelledFile, Labels, Region
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import IGNORE

if TYPE_CHECKING:
    from piclip.results import Segmentation

_DIGITS = 4
_ANNOTATION_BITS = 12  # with the 40 of an image, ids that JavaScript can count too


def from_segmentation(
    segmentation: Segmentation,
    path: str | None = None,
    *,
    instances: bool = True,
    min_area: float | str = 1,
    source: str | None = None,
) -> LabelledFile:
    """Take the regions of a prediction.

    Args:
        segmentation: What was predicted for one image.
        path: Relative to the folder of images; by default the name of the image's file.
        instances: Each connected part (pixels that touch at a side or a corner) is a region, or
            else all pixels of a class.
        min_area: Regions with fewer pixels are left out; a number, or a share such as "0.1%".
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


def to_coco(
    segmentation: Segmentation, file_name: str | None, *, instances: bool, polygons: bool
) -> dict[str, Any]:
    """The content of a COCO file for one image; see `Segmentation.to_coco`."""
    file = from_segmentation(segmentation, file_name, instances=instances)
    called = file_name or segmentation.source or segmentation.name
    number = int.from_bytes(hashlib.sha256(called.encode()).digest()[:5], "big") or 1
    labels = Labels(segmentation.class_names, (replace(file, id=number),))
    content = coco.to_dict(labels, polygons=polygons)
    for annotation in content["annotations"]:
        annotation["id"] += number << _ANNOTATION_BITS
    return content


def merge_coco(
    results: Iterable[Segmentation], *, instances: bool = True, polygons: bool = False
) -> dict[str, Any]:
    """One COCO file of many results, with images and annotations numbered from 1.

    Images are called by their files, relative to the folder that all of them have in common, if
    they have one.

    Args:
        results: Segmentations; their masks are forgotten one by one, so a stream may be given.
        instances: One annotation per connected part, or else per class.
        polygons: Outlines instead of run lengths.

    Returns:
        The content, for ``json.dump``; the categories are the classes of all results.

    Raises:
        UsageError: There is no result, or two have the same name.
    """
    files, names = [], dict[str, None]()
    for result in results:
        path = result.name if result.source is None else Path(result.source).as_posix()
        files.append(from_segmentation(result, path, instances=instances))
        names |= dict.fromkeys(result.class_names)
    if not files:
        raise UsageError("There is no result to merge; predict at least one image.")
    folders = [PurePosixPath(file.path).parent for file in files]
    if len({folder.is_absolute() for folder in folders}) == 1:
        root = os.path.commonpath(folders)
        files = [
            replace(file, path=PurePosixPath(file.path).relative_to(root).as_posix())
            for file in files
        ]
    return coco.to_dict(Labels(tuple(names), tuple(files)), polygons=polygons)
