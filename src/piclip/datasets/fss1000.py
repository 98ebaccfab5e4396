"""FSS-1000: a folder per class with pictures ``1.jpg`` and masks ``1.png`` of that class alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import MOST_CLASSES
from piclip.datasets.file_dataset import FileDataset, Files, by_key, read_lines
from piclip.errors import DatasetError, UsageError
from piclip.io.images import list_images, read_mask

Part: TypeAlias = Literal["trn", "val", "test"]

# The published split has 520, 240 and 240 of the 1000 classes.
_TRN_SHARE, _VAL_SHARE = 0.52, 0.24
_LEAST = 128


class FSS1000(FileDataset):
    """FSS-1000's layout ``ROOT/CLASS/N.jpg`` with ``ROOT/CLASS/N.png``; keys are ``CLASS/N``.

    The split is one of classes: the train split shows the classes of ``trn``, the val split those
    of ``evaluate_on``, and those are the novel classes of the only fold. ``trn.txt``, ``val.txt``
    and ``test.txt`` in ROOT name the classes of each part, one per line. Without these files the
    classes are ordered by the SHA-256 of their names; the first 52 % are trn, the next 24 % val
    and the rest test. That is the same everywhere, but not the published split: its figures are
    not to be compared with published ones.

    A mask is anti-aliased: its object is where it is 128 or more, as published. Every image
    counts for its class, since the published protocol has no smallest size.

    Args:
        root: The folder of the classes.
        evaluate_on: ``"test"`` or ``"val"``: the part that the val split shows.
        minimum_pixels: An image counts for its class from here on.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Attributes:
        published_split: Whether the split comes from the three files.

    Raises:
        DatasetError: Files are missing, or a class is in two parts.
        UsageError: ``evaluate_on`` is another word.
    """

    def __init__(
        self,
        root: Path,
        *,
        evaluate_on: Literal["test", "val"] = "test",
        minimum_pixels: int = 1,
        cache: Path | None = None,
    ) -> None:
        if evaluate_on not in ("test", "val"):
            raise UsageError(f"evaluate_on is test or val, not {evaluate_on!r}.")
        self.published_split = any((root / f"{part}.txt").is_file() for part in get_args(Part))
        parts = _read_parts(root) if self.published_split else _derived_parts(root)
        train, val = parts["trn"], parts[evaluate_on]
        names = (*train, *val)
        super().__init__(
            "fss-1000",
            names,
            files={"train": _files(root, train), "val": _files(root, val)},
            advice="check the folder",  # both splits are always there
            synonyms={name: (name.replace("_", " "),) for name in names},
            novel=[tuple(range(len(train), len(names)))],
            minimum_pixels=minimum_pixels,
            cache=cache,
        )
        self._index = {name: index for index, name in enumerate(names)}
        self._many = len(names) > MOST_CLASSES

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W).

        The object has the value class index + 1, or 1 in a dataset of more classes than values;
        `Sample.mask` knows which.
        """
        value = 1 if self._many else self._class_of(key) + 1
        return self._mask(key).astype(np.uint8) * np.uint8(value)

    def _class_of(self, key: str) -> int:
        return self._index[self.files(key).mask.parent.name]

    def _mask(self, key: str) -> NDArray[np.bool_]:
        return read_mask(self.files(key).mask, least=_LEAST)

    def _masks(self, key: str) -> dict[int, NDArray[np.bool_]] | None:
        return {self._class_of(key): self._mask(key)} if self._many else None


def _read_parts(root: Path) -> dict[Part, list[str]]:
    parts: dict[Part, list[str]] = {p: read_lines(root / f"{p}.txt") for p in get_args(Part)}
    for part, names in parts.items():
        missing = [name for name in names if not (root / name).is_dir()]
        if missing:
            raise DatasetError(
                f"{root / part}.txt names the class {missing[0]!r}, but there is no folder "
                f"{root / missing[0]}; complete the folder or take the line out."
            )
    everything = [name for names in parts.values() for name in names]
    if len(set(everything)) < len(everything):
        twice = next(name for name in everything if everything.count(name) > 1)
        raise DatasetError(
            f"{root}: the class {twice!r} is listed twice in trn.txt, val.txt and test.txt; keep "
            f"it in one part, so that nothing is measured on what was learned from."
        )
    return parts


def _derived_parts(root: Path) -> dict[Part, list[str]]:
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
    except OSError as error:
        raise DatasetError(f"{root} cannot be read ({error.strerror}); check the path.") from error
    ordered = sorted(folders, key=lambda path: hashlib.sha256(path.name.encode()).digest())
    names = [path.name for path in ordered]
    first, second = round(_TRN_SHARE * len(names)), round((_TRN_SHARE + _VAL_SHARE) * len(names))
    parts = names[:first], names[first:second], names[second:]
    return dict(zip(get_args(Part), map(sorted, parts), strict=True))


def _files(root: Path, names: list[str]) -> dict[str, Files]:
    """The images of these classes, each in the order of their numbers: 1, 2, ..., 10."""
    entries = []
    for name in names:
        pictures = [path for path in list_images(root / name) if path.suffix.lower() != ".png"]
        if not pictures:
            raise DatasetError(f"{root / name} has masks but no pictures; add 1.jpg and so on.")
        for image in sorted(pictures, key=lambda path: (len(path.stem), path.stem)):
            mask = image.with_suffix(".png")
            if not mask.is_file():
                raise DatasetError(
                    f"{image} has no mask {mask.name} beside it; add it or remove the image."
                )
            entries.append((f"{name}/{image.stem}", Files(image, mask)))
    return by_key(entries, root)
