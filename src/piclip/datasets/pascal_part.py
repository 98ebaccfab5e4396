"""PASCAL-Part: parts of animals, things and vehicles in four folds, in the files of Matcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Split, file_state
from piclip.datasets.file_dataset import OverlappingDataset, drawn_together
from piclip.datasets.prepared import SPLITS
from piclip.errors import DatasetError
from piclip.io.decoding import reason
from piclip.io.documents import read_json
from piclip.io.images import image_size, read_image

_FOLDS = ("animals", "indoor", "person", "vehicles")
_LEFT_OUT = ("aeroplane", "TAIL")  # by the published code, too
_SAID = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)

_Part: TypeAlias = tuple[str, str]
"""An object and its part in the files' words."""


@dataclass(frozen=True)
class _Thing:
    """An object of a photograph."""

    photograph: str  # its number, such as "2008_000019"
    box: tuple[slice, slice]  # rows and columns of the photograph that show it
    parts: dict[int, list[Any]]  # the segmentations in the photograph, by class index


class PascalPart(OverlappingDataset[_Thing]):
    """Matcher's layout: ROOT/VOCdevkit/VOC2010 with a list of images by object and part.

    A class is a part of an object: ``dog+HEAD``, which is called "dog head". The classes of a fold
    are the parts of its objects that images of train and of val show, without ``aeroplane+TAIL``,
    as published. An image here is one object, cut out of its photograph by its box; the key is
    the photograph's number and the object's place in its annotations, such as ``2008_000019/0``.
    It counts for a class if ``all_obj_part_to_image.json`` lists the photograph for it.

    Args:
        root: The folder with ``VOCdevkit``.
        minimum_pixels: An image counts for a class from here on.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Raises:
        DatasetError: The list is missing or damaged; later, an annotation is.
        UsageError: pycocotools is not installed.
    """

    def __init__(self, root: Path, *, minimum_pixels: int = 1, cache: Path | None = None) -> None:
        folder = root / "VOCdevkit" / "VOC2010"
        source = folder / "all_obj_part_to_image.json"
        folds = _read_list(source)
        self._listed = {part: listed for fold in folds for part, listed in fold.items()}
        place = {part: index for index, part in enumerate(self._listed)}
        names = ["+".join(part) for part in self._listed]
        super().__init__(
            "pascal-part",
            names,
            sources={"val": source, "train": source},
            synonyms={name: (_said(name),) for name in names},
            novel=[tuple(place[part] for part in fold) for fold in folds],
            minimum_pixels=minimum_pixels,
            cache=cache,
        )
        self._photographs = folder / "JPEGImages"
        self._annotations = folder / "Annotations_Part_json_merged_part_classes"

    def image(self, key: str) -> NDArray[np.uint8]:
        """The object alone, uint8 (H, W, 3)."""
        _, thing = self._find(key)
        return np.array(read_image(self._photograph(thing)), dtype=np.uint8)[thing.box]

    def _read_split(self, split: Split) -> dict[str, _Thing]:
        wanted: dict[str, dict[_Part, int]] = {}
        for index, (part, photographs) in enumerate(self._listed.items()):
            for photograph in photographs[split]:
                wanted.setdefault(photograph, {})[part] = index
        things: dict[str, _Thing] = {}
        for photograph, index_of in wanted.items():
            path = self._annotations / f"{photograph}.json"
            try:
                things.update(_things(read_json(path), photograph, index_of))
            except _DAMAGE as error:
                raise DatasetError(
                    f"{path} does not hold objects with boxes and parts ({reason(error)}); get "
                    f"Matcher's own file."
                ) from error
        return things

    def _masks(self, key: str) -> dict[int, NDArray[np.bool_]]:
        _, thing = self._find(key)
        size, masks = image_size(self._photograph(thing)), {}
        for index, shapes in thing.parts.items():
            whole = drawn_together(shapes, size, f"{key}, {self.class_names[index]}")
            masks[index] = whole[thing.box]
            if not masks[index].size:
                raise DatasetError(
                    f"{key}: the object's box lies outside its photograph; get Matcher's own file."
                )
        return masks

    def _fingerprint(self, split: Split) -> Iterator[str]:
        yield from super()._fingerprint(split)
        for photograph in dict.fromkeys(thing.photograph for thing in self._keys(split).values()):
            yield file_state(self._annotations / f"{photograph}.json")

    def _photograph(self, thing: _Thing) -> Path:
        return self._photographs / f"{thing.photograph}.jpg"


def _read_list(path: Path) -> list[dict[_Part, dict[str, list[str]]]]:
    """Per fold, the photographs of each class by split."""
    folds = []
    try:
        content = read_json(path)
        for fold in _FOLDS:
            parts = {
                (name, part): photographs
                for name, thing in content[fold]["object"].items()
                for part, photographs in thing["part"].items()
                if photographs["train"] and photographs["val"] and (name, part) != _LEFT_OUT
            }
            if not parts:
                raise ValueError(f"no part of {fold} has images of train and of val")
            for number in chain(*(part[split] for part in parts.values() for split in SPLITS)):
                if PurePath(number).name != number:
                    raise ValueError(f"{number!r} is no name of a photograph")
            folds.append(parts)
    except _DAMAGE as error:
        raise DatasetError(
            f"{path} does not list images by fold, object and part ({reason(error)}); get "
            f"Matcher's own file."
        ) from error
    return folds


def _things(
    content: dict[str, Any], photograph: str, index_of: Mapping[_Part, int]
) -> Iterator[tuple[str, _Thing]]:
    """The objects of a photograph that show a class, by key."""
    for number, entry in enumerate(content["object"]):
        parts: dict[int, list[Any]] = {}
        for part in entry["parts"]:
            index = index_of.get((entry["name"], part["name"]))
            if index is not None:
                parts.setdefault(index, []).extend(part["mask"])
        if parts:
            sides = ("xmin", "ymin", "xmax", "ymax")
            left, top, right, bottom = (int(entry["bndbox"][side]) for side in sides)
            if not (0 <= left < right and 0 <= top < bottom):
                raise ValueError(f"the box of object {number} holds no pixel")
            box = slice(top, bottom), slice(left, right)
            yield f"{photograph}/{number}", _Thing(photograph, box, parts)


def _said(name: str) -> str:
    """A class such as "dog+HEAD" as a person would call it."""
    thing, _, part = name.partition("+")
    return f"{_SAID.get(thing, thing)} {part}".replace("_", " ").lower()
