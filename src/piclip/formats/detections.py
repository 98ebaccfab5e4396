"""Predictions and labels for the library supervision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from piclip.formats.labels import LabelledFile, Labels
from piclip.formats.predicted import from_segmentation
from piclip.io.extras import library

if TYPE_CHECKING:
    from supervision import DetectionDataset, Detections

    from piclip.results import Segmentation


def to_detections(segmentation: Segmentation, *, instances: bool) -> Detections:
    """Regions of a prediction as ``supervision.Detections``; see `Segmentation.to_supervision`."""
    file = from_segmentation(segmentation, instances=instances)
    return _detections(file, segmentation.class_names)


def to_detection_dataset(labels: Labels, images: str | Path) -> DetectionDataset:
    """Labels, such as those of a whole run, as ``supervision.DetectionDataset``.

    It reads the images when it is asked for them, but holds all masks: 1000 masks of 640 x 480
    pixels are 0.3 GB.

    Args:
        labels: Of a run: ``read_labels("proposals.json")``. Images without a region are in it, too.
        images: The folder of images.

    Returns:
        The dataset; its detections have the regions' scores as confidence, and none for a person's
        labels.

    Raises:
        ImageError: An image is missing or cannot be read.
        MaskError: An image has another size than its label says.
        UsageError: supervision is not installed.
    """
    found = {str(file.image_in(Path(images))): file for file in labels.images}
    return library("supervision").DetectionDataset(
        classes=list(labels.class_names),
        images=list(found),
        annotations={path: _detections(file, labels.class_names) for path, file in found.items()},
    )


def _detections(file: LabelledFile, class_names: Sequence[str]) -> Detections:
    supervision = library("supervision")
    masks = np.zeros((len(file.regions), *file.size), dtype=np.bool_)
    for index, region in enumerate(file.regions):
        masks[index] = region.mask.to_array()
    names = [region.class_name for region in file.regions]
    scores = [region.score for region in file.regions]
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(masks).astype(np.float32).reshape(-1, 4),
        mask=masks,
        confidence=None if None in scores else np.array(scores, dtype=np.float32),
        class_id=np.array([class_names.index(name) for name in names], dtype=np.int64),
        data={"class_name": np.array(names, dtype=np.str_)},
    )
