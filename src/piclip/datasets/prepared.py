"""PASCAL-5i and COCO-20i, read from the folders that ``piclip data prepare`` writes."""

from __future__ import annotations

from pathlib import Path

from piclip.datasets.dataset import MINIMUM_PIXELS, FoldConvention, Split, fold_members
from piclip.datasets.image_files import (
    Files,
    ImageFiles,
    by_key,
    check_class_count,
    read_lines,
)
from piclip.datasets.prepare.preparation import read_description
from piclip.errors import DatasetError, UsageError

FOLDS = 4

# Name, spellings and wordings of piclip.clip.prompts that belong to it.
_TABLES = {"pascal-5i": "voc", "coco-20i": "coco"}


class PreparedDataset(ImageFiles):
    """A prepared folder: ``dataset.json``, ``masks/`` and ``lists/train.txt``, ``val.txt``.

    Args:
        name: ``"pascal-5i"`` or ``"coco-20i"``; the folder must hold this one.
        root: The prepared folder.
        fold_convention: ``"contiguous"``: fold i of PASCAL-5i holds the classes 5i to 5i + 4
            (from 0), of COCO-20i 20i to 20i + 19. ``"interleaved"``: fold i holds 4j + i.
        minimum_pixels: An image counts for a class from here on.
        images: Folder of the photographs, if they are not where ``dataset.json`` says.
        cache: Folder for the counts of pixels; None for the prepared folder itself, where they
            are left out if it is read-only.

    Raises:
        UsageError: ``root`` is no prepared folder or holds another dataset.
        DatasetError: ``dataset.json`` or a list is damaged.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        fold_convention: FoldConvention,
        minimum_pixels: int = MINIMUM_PIXELS,
        images: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        description = read_description(root)
        if description.get("name") != name:
            raise UsageError(
                f"{root} holds {description.get('name')}, not {name}; open it by that name or give "
                f"another folder."
            )
        names = _class_names(description.get("class_names"), root)
        photographs = root / str(description.get("images", "")) if images is None else Path(images)
        super().__init__(
            name,
            names,
            files={
                split: _read_list(path, root, photographs)
                for split, path in _lists(root).items()
                if path.is_file()
            },
            advice=f"prepare {root} again with the images of that split",
            wordings=_wordings(names, _TABLES[name]),
            novel=fold_members(len(names), FOLDS, fold_convention),
            minimum_pixels=minimum_pixels,
            cache=root if cache is None else Path(cache),
        )


def open_pascal(
    root: Path,
    *,
    fold_convention: FoldConvention = "contiguous",
    minimum_pixels: int = MINIMUM_PIXELS,
    images: Path | None = None,
    cache: Path | None = None,
) -> PreparedDataset:
    """Opens PASCAL-5i; the options are those of `PreparedDataset`."""
    return PreparedDataset(
        "pascal-5i",
        root,
        fold_convention=fold_convention,
        minimum_pixels=minimum_pixels,
        images=images,
        cache=cache,
    )


def open_coco(
    root: Path,
    *,
    fold_convention: FoldConvention = "interleaved",
    minimum_pixels: int = MINIMUM_PIXELS,
    images: Path | None = None,
    cache: Path | None = None,
) -> PreparedDataset:
    """Opens COCO-20i; the options are those of `PreparedDataset`."""
    return PreparedDataset(
        "coco-20i",
        root,
        fold_convention=fold_convention,
        minimum_pixels=minimum_pixels,
        images=images,
        cache=cache,
    )


def _lists(root: Path) -> dict[Split, Path]:
    return {"train": root / "lists" / "train.txt", "val": root / "lists" / "val.txt"}


def _class_names(value: object, root: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DatasetError(
            f"{root / 'dataset.json'} does not list the names of the classes; prepare the folder "
            f"again."
        )
    check_class_count(value, root)
    return value


def _read_list(path: Path, root: Path, photographs: Path) -> dict[str, Files]:
    """One image and its mask per line, parted by a tab; the key is the mask's stem."""
    entries = []
    for number, line in enumerate(read_lines(path), start=1):
        parts = line.split("\t")
        if len(parts) != 2:
            raise DatasetError(
                f"{path}, line {number}: an image and a mask parted by one tab were expected, not "
                f"{line!r}; prepare the folder again."
            )
        image, mask = parts
        entries.append((Path(mask).stem, Files(photographs / image, root / mask)))
    return by_key(entries, path)


def _wordings(names: list[str], table: str) -> dict[str, tuple[str, ...]]:
    """The published rewordings, such as "bird avian", of the classes that have one."""
    # piclip.clip needs torch, which no other part of reading a dataset does.
    from piclip.clip.prompts import synonym_table  # noqa: PLC0415

    synonyms = synonym_table(table)
    return {name: (synonyms[name],) for name in names if name in synonyms}
