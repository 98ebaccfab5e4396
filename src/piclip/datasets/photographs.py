"""Folders of photographs with class masks, told apart by what lies in them."""

from __future__ import annotations

from pathlib import Path

from piclip.clip.prompts import class_names
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset, Split
from piclip.datasets.file_dataset import FileDataset, Files, by_key, read_lines
from piclip.datasets.prepared import SPLITS, read_description
from piclip.errors import DatasetError, UsageError

_VOC_PIXELS = 1300  # an image of the smaller VOC photographs counts for a class from here on


def open_photographs(root: Path) -> tuple[Dataset, tuple[Split, ...]]:
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
        name = str(read_description(root).get("name"))
        options = {"minimum_pixels": _VOC_PIXELS} if name == "pascal-5i" else {}
        there = [split for split in SPLITS if (root / "lists" / f"{split}.txt").is_file()]
        return open_dataset(name, root, **options), tuple(there)
    if (root / "annotations").is_dir():
        files = {split: root / "annotations" / f"instances_{split}2014.json" for split in SPLITS}
        there = [split for split in SPLITS if files[split].is_file()]
        return open_dataset("coco-json", root), tuple(there)
    if (root / "classes.txt").is_file():
        return open_dataset("folder", root), (
            ("train", "val") if (root / "train.txt").is_file() else ("val",)
        )
    if (root / "list.txt").is_file():
        return _voc(root), ("val",)
    raise UsageError(
        f"{root} holds no photographs that are known here: give a folder of 'piclip data prepare', "
        f"VOC's with a list.txt, COCO 2014's with annotations/, or images/, masks/ and classes.txt."
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
