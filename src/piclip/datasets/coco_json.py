"""COCO's instance annotations with their folder of images, read as they are.

Where objects overlap, the one with the smaller mask lies on top (of equal ones the later): of a
person behind a small cup both stay visible. Crowd regions are 255 (ignore) and lie below all single
objects, whose outlines are more exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import (
    MINIMUM_PIXELS,
    FoldConvention,
    Split,
    check_class_count,
    fold_members,
)
from piclip.datasets.file_dataset import LazyDataset
from piclip.errors import DatasetError, PiclipError
from piclip.formats.coco import CocoImage, drawn_mask, load
from piclip.io.extras import needs_extra
from piclip.io.images import IGNORE, read_image
from piclip.io.outputs import Progress


class CocoJson(LazyDataset[CocoImage]):
    """Instance annotations; every category is a class, in the order of the ids.

    The key of an image is its ``file_name`` without suffix. The files' defaults are COCO's own
    layout of 2014.

    Args:
        root: The folder that the other paths are relative to.
        val_annotations: Instance JSON of the val split.
        val_images: Folder of its images.
        train_annotations: Instance JSON of the train split; read when somebody asks for it.
        train_images: Folder of its images.
        folds: 1 makes every class novel; more are needed to train on base classes.
        fold_convention: Which classes a fold holds back, see `fold_members`.
        minimum_pixels: An image counts for a class from here on.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Raises:
        DatasetError: The val annotations are missing, damaged or no instance annotations.
        UsageError: pycocotools is not installed, or there are fewer classes than folds.
    """

    def __init__(
        self,
        root: Path,
        *,
        val_annotations: str | Path = "annotations/instances_val2014.json",
        val_images: str | Path = "val2014",
        train_annotations: str | Path = "annotations/instances_train2014.json",
        train_images: str | Path = "train2014",
        folds: int = 1,
        fold_convention: FoldConvention = "contiguous",
        minimum_pixels: int = MINIMUM_PIXELS,
        cache: Path | None = None,
    ) -> None:
        file = root / val_annotations
        categories, labelled = read_coco(file)
        names = list(categories.values())
        check_class_count(names, file)
        super().__init__(
            "coco-json",
            names,
            sources={"val": file, "train": root / train_annotations},
            novel=fold_members(len(names), folds, fold_convention) if names else None,
            minimum_pixels=minimum_pixels,
            cache=cache,
        )
        self._categories = categories
        self._value = {number: value for value, number in enumerate(categories, start=1)}
        self._splits["val"] = labelled
        self._images: dict[Split, Path] = {"train": root / train_images, "val": root / val_images}

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""
        split, labelled = self._find(key)
        return np.array(read_image(self._images[split] / labelled.path), dtype=np.uint8)

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W); a DatasetError where an annotation is damaged."""
        return draw_objects(self._find(key)[1], self._value)

    def _read_split(self, split: Split) -> dict[str, CocoImage]:
        categories, labelled = read_coco(self._sources[split])
        if categories != self._categories:
            raise DatasetError(
                f"{self._sources[split]} has other categories than {self._sources['val'].name}; "
                f"give both splits the same list of categories."
            )
        return labelled


def read_coco(
    file: Path, progress: Progress | None = None
) -> tuple[dict[int, str], dict[str, CocoImage]]:
    """Category names by id, ascending, and the images by path without suffix.

    Raises:
        DatasetError: The file is missing, damaged or no instance annotations.
        UsageError: pycocotools is not installed.
    """
    with needs_extra("data", "Reading COCO's annotations"):
        import pycocotools  # noqa: F401, PLC0415 - an extra
    try:
        categories, images = load(file, progress)
    except PiclipError as error:
        raise DatasetError(str(error)) from error
    by_key = {str(PurePosixPath(image.path).with_suffix("")): image for image in images.values()}
    if len(by_key) < len(images):
        raise DatasetError(f"{file}: two images have one name without suffix; give each its own.")
    return dict(sorted(categories.items())), by_key


def draw_objects(image: CocoImage, values: Mapping[int, int]) -> NDArray[np.uint8]:
    """Class map uint8 (H, W) of one image, the larger objects first; ``values`` are by category id.

    Raises:
        DatasetError: An annotation is damaged.
    """
    class_map = np.zeros(image.size, dtype=np.uint8)
    drawn = []
    for annotation in image.annotations:
        where = f"{image.path}: annotation {annotation.get('id', '')}"
        try:
            mask = drawn_mask(annotation, image.size, where).to_array()
        except PiclipError as error:
            raise DatasetError(str(error)) from error
        if annotation.get("iscrowd"):
            class_map[mask] = IGNORE
        else:
            drawn.append((int(mask.sum()), values[annotation["category_id"]], mask))
    for _, value, mask in sorted(drawn, key=lambda item: -item[0]):
        class_map[mask] = value
    return class_map
