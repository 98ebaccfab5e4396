"""Look through a prepared folder: what is there, per fold and class, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Split, count_pixels
from piclip.datasets.prepared import (
    SPLITS,
    PreparedDataset,
    open_coco,
    open_pascal,
    read_description,
)
from piclip.errors import ImageError, MaskError, UsageError
from piclip.io.images import image_size
from piclip.io.outputs import Progress, summed

_OPENERS = {"pascal-5i": open_pascal, "coco-20i": open_coco}


class Problem(NamedTuple):
    """Something that is missing or wrong."""

    kind: str  # list, photograph, mask, size or values
    key: str  # the image; empty for lists
    text: str  # one sentence for people


class Count(NamedTuple):
    """Images of one split that show a class, or any novel class of a fold."""

    any_pixels: int  # with at least one pixel
    counting: int  # with at least as many pixels of one class as the rule asks for


@dataclass(frozen=True)
class Report:
    """What a prepared folder holds."""

    name: str  # of the dataset
    folder: Path
    minimum_pixels: int  # from here on an image counts for a class
    images: dict[Split, int]  # how many are listed
    classes: list[dict[str, dict[Split, Count]]]  # per fold, by the names of its novel classes
    folds: list[dict[Split, Count]]  # per fold, of images that show any of these
    problems: list[Problem]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "minimum_pixels": self.minimum_pixels,
            "images": dict(self.images),
            "folds": [
                {
                    "fold": fold,
                    "novel_images": _plain(total),
                    "classes": {name: _plain(counts) for name, counts in classes.items()},
                }
                for fold, (total, classes) in enumerate(zip(self.folds, self.classes, strict=True))
            ],
            "problems": [problem._asdict() for problem in self.problems],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Fold, class, and per split the images with the class and those that count for it."""
        table = []
        for fold, classes in enumerate(self.classes):
            total = ("any of them", self.folds[fold])
            for name, counts in [*classes.items(), total]:
                numbers = (str(number) for split in self.images for number in counts[split])
                table.append((str(fold), name, *numbers))
        return table


def check_folder(root: Path, progress: Progress | None = None) -> Report:
    """Look through a folder that ``piclip data prepare`` wrote.

    Every mask is decoded; of a photograph only the header is read, so damage further on is not
    found here. Whatever is missing or wrong is among the report's problems.

    Args:
        root: The folder.
        progress: Told how many images have been looked at.

    Raises:
        UsageError: The folder is no prepared one.
        DatasetError: ``dataset.json`` or a list is damaged.
    """
    name = read_description(root).get("name")
    if name not in _OPENERS:
        raise UsageError(
            f"{root} holds {name!r}, which cannot be checked; known are {', '.join(_OPENERS)}."
        )
    dataset = _OPENERS[name](root)
    lists = {split: root / "lists" / f"{split}.txt" for split in SPLITS}
    problems = [
        Problem("list", "", f"The {split} list ({path}) is missing; prepare it.")
        for split, path in lists.items()
        if not path.is_file()
    ]
    listed = {split: dataset.keys(split) for split, path in lists.items() if path.is_file()}
    told = summed(progress, sum(map(len, listed.values())))
    pixels: dict[Split, NDArray[np.int64]] = {}
    with ThreadPoolExecutor() as pool:
        for split, keys in listed.items():
            pixels[split] = np.zeros((len(keys), len(dataset.class_names)), dtype=np.int64)
            for found in pool.map(partial(_look_at, dataset), keys, pixels[split]):
                problems += found
                told(1)

    def images_with(columns: Sequence[int]) -> dict[Split, Count]:
        """Images that show, and that count for, at least one of the classes."""
        return {
            split: Count(
                int((rows[:, columns] > 0).any(axis=1).sum()),
                int((rows[:, columns] >= dataset.minimum_pixels).any(axis=1).sum()),
            )
            for split, rows in pixels.items()
        }

    novel = [dataset.novel_classes(fold) for fold in range(dataset.folds())]
    return Report(
        name=name,
        folder=root,
        minimum_pixels=dataset.minimum_pixels,
        images={split: len(keys) for split, keys in listed.items()},
        classes=[{dataset.class_names[i]: images_with([i]) for i in fold} for fold in novel],
        folds=[images_with(fold) for fold in novel],
        problems=problems,
    )


def _look_at(dataset: PreparedDataset, key: str, pixels: NDArray[np.int64]) -> list[Problem]:
    """Counts the pixels of every class (C,) in one image with an intact mask; finds problems."""
    file, problems = dataset.files(key).image, []
    photograph = mask = None
    try:
        photograph = image_size(file)
    except ImageError as error:
        problems.append(Problem("photograph", key, str(error)))
    try:
        class_map = dataset.class_map(key)
        mask, pixels[:] = class_map.shape, count_pixels(class_map, len(pixels))
    except (ImageError, MaskError) as error:
        kind = "values" if isinstance(error, MaskError) else "mask"
        problems.append(Problem(kind, key, str(error)))
    if photograph is not None and mask is not None and photograph != mask:
        text = (
            f"{file} is {photograph[1]} x {photograph[0]} pixels (width x height) but its mask is "
            f"{mask[1]} x {mask[0]}."
        )
        problems.append(Problem("size", key, text))
    return problems


def _plain(counts: dict[Split, Count]) -> dict[str, dict[str, int]]:
    return {split: count._asdict() for split, count in counts.items()}
