"""Any folder of labelled images: ``images/``, ``masks/`` (class maps) and ``classes.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from piclip.datasets.dataset import (
    MINIMUM_PIXELS,
    FoldConvention,
    check_class_count,
    fold_members,
)
from piclip.datasets.file_dataset import FileDataset, Files, by_key, read_lines
from piclip.datasets.prepared import SPLITS
from piclip.errors import DatasetError
from piclip.io.images import list_images


class FolderDataset(FileDataset):
    """A folder of one's own images.

    ``classes.txt`` names one class per line: line n is the value n in the masks; 0 is background
    and 255 is ignored. A mask has its image's name and the suffix ``.png``; the key is the name
    without suffix. ``train.txt`` and ``val.txt`` list keys (a suffix is allowed), one per line.
    Without either, every image is in val and train does not exist: nothing can be measured on
    what was learned from.

    Args:
        root: The folder.
        folds: 1 makes every class novel; more are needed to train on base classes.
        fold_convention: Which classes a fold holds back, see `fold_members`.
        minimum_pixels: An image counts for a class from here on.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Raises:
        DatasetError: Files are missing, or an image is listed twice.
        UsageError: There are fewer classes than folds.
    """

    def __init__(
        self,
        root: Path,
        *,
        folds: int = 1,
        fold_convention: FoldConvention = "contiguous",
        minimum_pixels: int = MINIMUM_PIXELS,
        cache: Path | None = None,
    ) -> None:
        names = read_lines(root / "classes.txt")
        check_class_count(names, root / "classes.txt")
        pairs = _pairs(root)
        lists = {split: root / f"{split}.txt" for split in SPLITS}
        listed = {s: _listed(path, pairs) for s, path in lists.items() if path.is_file()}
        super().__init__(
            "folder",
            names,
            files=listed or {"val": pairs},
            advice=f"list its images in {root}, one name per line of train.txt and val.txt",
            novel=fold_members(len(names), folds, fold_convention) if names else None,
            minimum_pixels=minimum_pixels,
            cache=cache,
        )


def _pairs(root: Path) -> dict[str, Files]:
    """Every image with its mask; neither may lack the other."""
    images, masks = list_images(root / "images"), list_images(root / "masks")
    pairs = by_key(
        ((image.stem, Files(image, root / "masks" / f"{image.stem}.png")) for image in images),
        root / "images",
    )
    there = {mask.name for mask in masks}
    without = [key for key, files in pairs.items() if files.mask.name not in there]
    if without:
        raise DatasetError(
            f"{root}: {_count(without, 'image')} no mask in masks/ (the first is {without[0]}.png);"
            f" add it, or move images that are not labelled out of images/."
        )
    alone = sorted(mask.name for mask in masks if mask.stem not in pairs)
    if alone:
        raise DatasetError(
            f"{root}: {_count(alone, 'mask')} no image in images/ (the first is {alone[0]}); add "
            f"it, or remove the mask."
        )
    return pairs


def _listed(path: Path, pairs: dict[str, Files]) -> dict[str, Files]:
    # Keys may hold dots themselves, so that only a name that is no key loses its suffix.
    keys = [line if line in pairs else Path(line).stem for line in read_lines(path)]
    missing = [key for key in keys if key not in pairs]
    if missing:
        raise DatasetError(
            f"{path}: {_count(missing, 'listed name')} no image in images/ (the first is "
            f"{missing[0]}); add the image or take the line out."
        )
    return by_key(((key, pairs[key]) for key in keys), path)


def _count(names: Sequence[str], noun: str) -> str:
    return f"1 {noun} has" if len(names) == 1 else f"{len(names)} {noun}s have"
