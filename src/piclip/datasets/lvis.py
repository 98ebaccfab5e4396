"""LVIS-92i: 920 classes of LVIS in ten folds, in the files of Matcher (aim-uofa/Matcher)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Split
from piclip.datasets.file_dataset import OverlappingDataset, drawn_together
from piclip.errors import DatasetError, UsageError
from piclip.formats.coco import packed
from piclip.formats.image_files import relative_path
from piclip.io.decoding import reason
from piclip.io.documents import json_fields, read_plain_pickle
from piclip.io.images import image_size, read_image

_FOLDS = 10
_MOST_BYTES = 4_000_000_000  # LVIS' own train file is a text of 1.2 GB
_NAMES = ("lvis_v1_val.json", "lvis_v1_train.json")

_Shapes: TypeAlias = dict[int, list[Any]]
"""The segmentations of an image by class index."""


class LVIS92i(OverlappingDataset[_Shapes]):
    """Matcher's layout: ``lvis_train.pkl``, ``lvis_val.pkl`` and the photographs in ``coco/``.

    A pickle has the annotations of each category by photograph; keys are the photographs' paths in
    ``coco/``, such as ``val2017/000000000139.jpg``. Nothing in it is executed. Its classes are
    numbers; their names come from ``lvis_v1_val.json`` or ``lvis_v1_train.json``, of which
    ``categories`` alone is needed, and are said without underscores and brackets.

    The novel classes of fold i are every tenth from i on of the val categories with more than
    ``shots`` images, in the file's order. An image counts for every class that the file gives it,
    as published, so that no mask is drawn before it is asked for.

    Args:
        root: The folder.
        shots: Classes of so many val images or fewer are in no fold; 5 for the published folds of
            5-shot episodes.
        minimum_pixels: An image counts for a class from here on; from 2 on, masks are counted.
        cache: Folder for these counts; None counts anew in every process.

    Raises:
        DatasetError: A file is missing or damaged.
        UsageError: pycocotools is not installed, or ``shots`` is below 1.
    """

    def __init__(
        self, root: Path, *, shots: int = 1, minimum_pixels: int = 1, cache: Path | None = None
    ) -> None:
        if shots < 1:
            raise UsageError(f"The folds of LVIS-92i are made for 1 shot or more, not {shots}.")
        sources: dict[Split, Path] = {s: root / f"lvis_{s}.pkl" for s in ("val", "train")}
        wordings = _read_wordings(root)
        self._photographs = root / "coco"
        self._index = {number: index for index, number in enumerate(wordings)}
        images, counts = _read_images(sources["val"], self._index)
        enough = [index for index, count in counts.items() if count > shots]
        last = len(enough) // _FOLDS * _FOLDS
        if not last:
            raise DatasetError(
                f"{sources['val']} has {len(enough)} categories of more than {shots} images, too "
                f"few for {_FOLDS} folds; get the whole file, or lower shots."
            )
        super().__init__(
            "lvis-92i",
            [names[0] for names in wordings.values()],
            sources=sources,
            synonyms={
                names[0]: tuple(dict.fromkeys(map(_said, names))) for names in wordings.values()
            },
            novel=[tuple(sorted(enough[fold:last:_FOLDS])) for fold in range(_FOLDS)],
            minimum_pixels=minimum_pixels,
            cache=cache,
        )
        self._splits["val"] = images

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""
        self._find(key)
        return np.array(read_image(self._photographs / key), dtype=np.uint8)

    def shows(self, split: Split, least: int) -> NDArray[np.bool_]:
        """Whether each image shows so many pixels of a class or more (N, C); 1 as the file says."""
        if least > 1:
            return super().shows(split, least)
        shown = np.zeros((len(self.keys(split)), len(self.class_names)), dtype=np.bool_)
        for row, shapes in enumerate(self._keys(split).values()):
            shown[row, list(shapes)] = True
        return shown

    def _read_split(self, split: Split) -> dict[str, _Shapes]:
        return _read_images(self._sources[split], self._index)[0]

    def _masks(self, key: str) -> dict[int, NDArray[np.bool_]]:
        _, shapes = self._find(key)
        size, masks = image_size(self._photographs / key), {}
        for index, parts in shapes.items():
            where = f"{key}, {self.class_names[index]}"
            masks[index] = drawn_together(parts, size, where)
            if not masks[index].any():
                masks[index][_first_pixel(parts, size, where)] = True
        return masks


def _read_wordings(root: Path) -> dict[int, tuple[str, ...]]:
    """Name and synonyms of every category by its number, ascending."""
    path = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if path is None:
        raise DatasetError(
            f"{root} does not say what the categories are called; put LVIS' own {_NAMES[0]} there, "
            f"or a file of that name with its 'categories' alone."
        )
    try:
        fields = json_fields(path)
        entries = next((list(value) for name, value in fields if name == "categories"), [])
        wordings = {e["id"]: (e["name"], *e.get("synonyms", ())) for e in entries}
        if all(_said(text).strip() for texts in wordings.values() for text in texts):
            return dict(sorted(wordings.items()))
        raise ValueError("a category has no name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} does not name LVIS' categories ({reason(error)}); get it anew."
        ) from error


def _said(name: str) -> str:
    """A name such as "bat_(animal)" as it is said."""
    return name.replace("_", " ").replace("(", "").replace(")", "")


def _read_images(
    path: Path, index_of: Mapping[int, int]
) -> tuple[dict[str, _Shapes], dict[int, int]]:
    """The segmentations by image, and how many images each class has, in the file's order."""
    images: dict[str, _Shapes] = {}
    try:
        content = read_plain_pickle(path, most_bytes=_MOST_BYTES)
        # detectron2, which numbers LVIS' categories from 0 on, may have made the file.
        shift = 1 if 0 in content else 0
        if unknown := [number for number in content if number + shift not in index_of]:
            raise ValueError(f"its category {unknown[0]} has no name")
        counts = {index_of[number + shift]: len(shown) for number, shown in content.items()}
        left = path.stat().st_size  # each value takes a byte, but a part may stand in many places
        for number, name, shape in _segmentations(content):
            outlines = shape if isinstance(shape, list) else []
            left -= 1 + len(outlines) + sum(map(len, outlines))
            if left < 0:
                raise ValueError("its parts come back again and again")
            shapes = images.setdefault(relative_path(name), {})
            drawn = [packed(outline) for outline in outlines] or shape
            shapes.setdefault(index_of[number + shift], []).append(drawn)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} does not hold annotations by category and image ({reason(error)}); get "
            f"Matcher's own file."
        ) from error
    return images, counts


def _segmentations(content: dict[int, dict[str, Any]]) -> Iterator[tuple[int, str, Any]]:
    """Category, image and segmentation of every annotation."""
    for number, shown in content.items():
        for name, record in shown.items():
            if not record["annotations"]:
                raise ValueError(f"{name} has no annotation of its category {number}")
            for annotation in record["annotations"]:
                yield number, name, annotation["segmentation"]


def _first_pixel(shapes: list[Any], size: tuple[int, int], where: str) -> tuple[int, int]:
    """Where the first outline begins, of outlines too thin to hold the centre of a pixel."""
    for shape in shapes:
        for outline in shape if isinstance(shape, list) else []:
            if len(outline) >= 6:
                x, y = (int(number) for number in outline[:2])
                return min(max(y, 0), size[0] - 1), min(max(x, 0), size[1] - 1)
    raise DatasetError(f"{where}: the annotations cover no pixel; get Matcher's own file.")
