"""PASCAL-5i and COCO-20i, read from the folders that ``piclip data prepare`` writes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from piclip.datasets.dataset import (
    MINIMUM_PIXELS,
    FoldConvention,
    Split,
    check_class_count,
    fold_members,
)
from piclip.datasets.file_dataset import FileDataset, Files, by_key, read_lines
from piclip.errors import DatasetError, UsageError
from piclip.io.documents import read_json

FOLDS = 4
FORMAT = 1
SPLITS: tuple[Split, ...] = ("train", "val")

# Name, spellings and synonyms of piclip.clip.prompts that belong to it.
_TABLES = {"pascal-5i": "voc", "coco-20i": "coco"}


class PreparedDataset(FileDataset):
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
        # piclip.clip needs torch, which no other part of reading a dataset does.
        from piclip.clip.prompts import synonym_table  # noqa: PLC0415

        synonyms = synonym_table(_TABLES[name])  # the published ones, such as "bird avian"
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
                for split in SPLITS
                if (path := root / "lists" / f"{split}.txt").is_file()
            },
            advice=f"prepare {root} again with the images of that split",
            synonyms={c: (wording,) for c, wording in synonyms.items() if c in names},
            novel=fold_members(len(names), FOLDS, fold_convention),
            minimum_pixels=minimum_pixels,
            cache=root if cache is None else cache,
        )


open_pascal = partial(PreparedDataset, "pascal-5i", fold_convention="contiguous")
open_coco = partial(PreparedDataset, "coco-20i", fold_convention="interleaved")


def read_description(out: Path) -> dict[str, Any]:
    """Content of ``dataset.json`` in a prepared folder; UsageError if it is missing or damaged."""
    path = out / "dataset.json"
    try:
        description = read_json(path)
    except FileNotFoundError as error:
        raise UsageError(
            f"{out} is no prepared folder (it has no dataset.json); make one with "
            f"'piclip data prepare'."
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); prepare the folder again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UsageError(
            f"{path} does not say format {FORMAT}; prepare the folder again with this version."
        )
    return description


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
