"""COCO instance annotations with their folder of images, read as they are.

How objects that overlap are drawn says `piclip.datasets.coco_objects`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.coco_objects import coco_masks, draw_objects
from piclip.datasets.dataset import (
    MINIMUM_PIXELS,
    FoldConvention,
    LabelledImages,
    Split,
    check_split,
    fold_members,
)
from piclip.datasets.image_files import check_class_count
from piclip.datasets.presence import file_state
from piclip.errors import DatasetError
from piclip.io.documents import read_json
from piclip.io.images import read_image


@dataclass(frozen=True)
class _Labelled:
    """One image of an annotation file: path, (height, width) in pixels and its objects."""

    image: Path
    size: tuple[int, int]
    objects: list[dict[str, Any]] = field(default_factory=list)


class CocoJson(LabelledImages):
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
        coco_masks()
        self._sources: dict[Split, tuple[Path, Path]] = {
            "train": (root / train_annotations, root / train_images),
            "val": (root / val_annotations, root / val_images),
        }
        file, images = self._sources["val"]
        categories, labelled = _read(file, images)
        names = list(categories.values())
        check_class_count(names, file)
        super().__init__(
            "coco-json",
            names,
            novel=fold_members(len(names), folds, fold_convention) if names else None,
            minimum_pixels=minimum_pixels,
            cache=None if cache is None else Path(cache),
        )
        self._categories = categories
        self._value = {number: value for value, number in enumerate(categories, start=1)}
        self._splits: dict[Split, dict[str, _Labelled]] = {"val": labelled}

    def keys(self, split: Split) -> tuple[str, ...]:
        """The images of a split, in the order of the file.

        Raises:
            DatasetError: The train annotations do not fit to those of val.
        """
        return tuple(self._split(split))

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""
        return np.array(read_image(self._labelled(key).image), dtype=np.uint8)

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W).

        Raises:
            DatasetError: An annotation is damaged.
        """
        labelled = self._labelled(key)
        return draw_objects(
            labelled.objects,
            labelled.size,
            self._value.__getitem__,
            image=labelled.image.name,
            error=DatasetError,
        )

    def _split(self, split: Split) -> dict[str, _Labelled]:
        check_split(split)
        if split not in self._splits:
            file, images = self._sources[split]
            categories, labelled = _read(file, images)
            if categories != self._categories:
                raise DatasetError(
                    f"{file} has other categories than {self._sources['val'][0].name}; give both "
                    f"splits the same list of categories."
                )
            twice = labelled.keys() & self._splits["val"].keys()
            if twice:
                raise DatasetError(
                    f"{file}: the image {min(twice)} is in the val split too; keep it in one, so "
                    f"that nothing is measured on what was learned from."
                )
            self._splits[split] = labelled
        return self._splits[split]

    def _labelled(self, key: str) -> _Labelled:
        for labelled in self._splits.values():
            if key in labelled:
                return labelled[key]
        # A key of train may come before anybody asked for the train split.
        if self._sources["train"][0].is_file() and key in self._split("train"):
            return self._split("train")[key]
        raise self._unknown_key(key)

    def _fingerprint(self, split: Split) -> Iterator[str]:
        yield file_state(self._sources[split][0])


def _read(file: Path, images: Path) -> tuple[dict[int, str], dict[str, _Labelled]]:
    """Category names by id, ascending, and the images by key."""
    try:
        data = read_json(file)
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise DatasetError(f"{file} is no intact JSON ({error}); get it anew.") from error
    try:
        categories = {int(c["id"]): str(c["name"]) for c in data["categories"]}
        by_id = {
            image["id"]: _Labelled(
                images / image["file_name"], (int(image["height"]), int(image["width"]))
            )
            for image in data["images"]
        }
        stems = [str(PurePosixPath(image["file_name"]).with_suffix("")) for image in data["images"]]
        for annotation in data["annotations"]:
            if annotation["category_id"] not in categories:
                raise DatasetError(
                    f"{file}: annotation {annotation.get('id')} is of the category "
                    f"{annotation['category_id']}, which is not listed; add the category."
                )
            by_id[annotation["image_id"]].objects.append(annotation)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{file} has not the structure of COCO's instance annotations ({error!r}); it needs "
            f"categories, images with file_name, height and width, and annotations of them."
        ) from error
    labelled = dict(zip(stems, by_id.values(), strict=False))
    if len(labelled) < len(data["images"]):
        raise DatasetError(
            f"{file}: two images have one id or name without suffix; give each its own."
        )
    return dict(sorted(categories.items())), labelled
