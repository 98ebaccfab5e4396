"""Folders of photographs with class masks, told apart by what lies in them."""

from __future__ import annotations

from pathlib import Path

from piclip.clip.prompts import class_names
from piclip.datasets.coco_json import CocoJson
from piclip.datasets.dataset import Split, fold_members
from piclip.datasets.file_dataset import FileDataset, Files, by_key, read_lines
from piclip.datasets.folder import FolderDataset
from piclip.datasets.prepared import FOLDS, SPLITS, open_coco, open_pascal, read_description
from piclip.errors import DatasetError, UsageError

_VOC_PIXELS = 1300  # an image of the smaller VOC photographs counts for a class from here on


def open_photographs(root: Path) -> tuple[FileDataset | CocoJson, tuple[Split, ...]]:
    """Opens photographs of PASCAL or COCO.

    Args:
        root: A folder that ``piclip data prepare`` wrote; or VOC's ``JPEGImages/`` and
            ``SegmentationClassAug/`` with ``list.txt``, an image and its mask in each line; or COCO
            2014 with ``annotations/``, ``train2014/`` and ``val2014/``; or a folder of one's own,
            see `piclip.datasets.folder`.

    Returns:
        The dataset, of which an image counts for a class from 1300 pixels on (VOC) or 2048 (COCO),
        and its splits.

    Raises:
        UsageError: The folder is none of these.
        DatasetError: It is incomplete or contradicts itself.
    """
    if (root / "dataset.json").is_file():
        there = tuple(split for split in SPLITS if (root / "lists" / f"{split}.txt").is_file())
        if read_description(root).get("name") == "pascal-5i":
            return open_pascal(root, minimum_pixels=_VOC_PIXELS), there
        return open_coco(root), there
    if (root / "annotations").is_dir():
        files = {split: root / "annotations" / f"instances_{split}2014.json" for split in SPLITS}
        there = tuple(split for split in SPLITS if files[split].is_file())
        return CocoJson(root), there
    if (root / "classes.txt").is_file():
        return FolderDataset(root), SPLITS if (root / "train.txt").is_file() else ("val",)
    if (root / "list.txt").is_file():
        return _voc(root), ("val",)
    raise UsageError(
        f"{root} holds no photographs that are known here: give a folder of 'piclip data prepare', "
        f"VOC's with a list.txt, COCO 2014's with annotations/, or images/, masks/ and classes.txt."
    )


def open_listed(root: Path, *, lists: str | Path | None = None) -> FileDataset:
    """Opens some photographs of PASCAL as a PASCAL-5i of their own.

    Args:
        root: VOC's photographs, in a folder that `open_photographs` knows.
        lists: A folder with ``train.txt`` and ``val.txt``: numbers of images such as
            "2008_000019", one in each line, whichever split of ``root`` they are in.

    Raises:
        UsageError: The photographs are none of VOC, or no lists are given.
        DatasetError: A list is missing, or an image that is listed.
    """
    if lists is None:
        raise UsageError(
            "The dataset voc-photos needs the option lists: a folder with train.txt and val.txt."
        )
    dataset, splits = open_photographs(root)
    if dataset.class_names != class_names("voc") or isinstance(dataset, CocoJson):
        raise UsageError(f"{root} holds no photographs of VOC; give a folder with its 20 classes.")
    there = {Path(key).name: dataset.files(key) for split in splits for key in dataset.keys(split)}
    files: dict[Split, dict[str, Files]] = {}
    for split in SPLITS:
        source = Path(lists) / f"{split}.txt"
        numbers = read_lines(source)
        if missing := [number for number in numbers if number not in there]:
            raise DatasetError(
                f"{root} lacks the image {missing[0]} of {source} (with {len(missing) - 1} more); "
                f"get the whole set, or take it off the list."
            )
        files[split] = by_key(((number, there[number]) for number in numbers), source)
    return FileDataset(
        "voc-photos",
        dataset.class_names,
        files=files,
        advice=f"put {lists} in order",
        synonyms=dataset.synonyms,
        novel=fold_members(len(dataset.class_names), FOLDS, "contiguous"),
        minimum_pixels=dataset.minimum_pixels,
    )


def _voc(root: Path) -> FileDataset:
    entries = []
    for number, line in enumerate(read_lines(root / "list.txt"), start=1):
        parts = line.split()
        if len(parts) != 2:
            raise DatasetError(
                f"{root / 'list.txt'}, line {number}: an image and its mask were expected, not "
                f"{line!r}; write both, parted by a space."
            )
        image, mask = (root / part for part in parts)
        entries.append((image.stem, Files(image, mask)))
    return FileDataset(
        "voc-photos",
        class_names("voc"),
        files={"val": by_key(entries, root / "list.txt")},
        advice="all its images are in val",
        minimum_pixels=_VOC_PIXELS,
    )
