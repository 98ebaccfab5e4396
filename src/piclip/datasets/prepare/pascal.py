"""PASCAL-5i from VOC 2012 and SBD: whose mask counts, and which images are listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from piclip.clip.prompts import class_names
from piclip.datasets.dataset import Split
from piclip.datasets.prepare.preparation import (
    ClassMap,
    Listed,
    Plan,
    Prepared,
    carry_out,
    names_in,
    refuse_missing,
)
from piclip.datasets.prepare.sbd import SbdMasks, find_folder
from piclip.errors import ImageError, UsageError
from piclip.formats.voc import read_class_map
from piclip.io.outputs import Progress

TrainList: TypeAlias = Literal["published", "aug"]
TRAIN_LISTS: tuple[str, ...] = get_args(TrainList)
PUBLISHED_COUNTS = {"published": 5953, "aug": 10582}
PUBLISHED_VAL = 1449


def prepare_pascal(
    out: Path,
    *,
    voc: Path,
    sbd: Path | None = None,
    masks: Path | None = None,
    train_list: str = "published",
    list_file: Path | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Merge VOC 2012 and SBD into class masks, and write the lists.

    An image that VOC's train or val list names takes VOC's mask (with its 255 borders), any other
    SBD's. val is VOC's val list. train is, without val:

    - "published": VOC's train list and SBD's ``train_noval.txt`` (5953 images, the list of
      PFENet and its successors). Where that file is not in the SBD folder, the images of SBD that
      VOC's ``ImageSets/Main/train.txt`` names are taken for it;
    - "aug": VOC's train list and everything in SBD (10582 images).

    Args:
        out: The prepared folder; masks that are already there are kept.
        voc: ``VOCdevkit/VOC2012`` or a folder that holds it.
        sbd: SBD's ``dataset`` folder or one that holds it.
        masks: Instead of ``sbd``: a ready ``SegmentationClassAug`` folder with all masks.
        train_list: "published" or "aug".
        list_file: Instead of ``train_list``: a file with an image per line (a name, or a path
            and whatever follows it).
        progress: Told how many masks are done.

    Returns:
        The counts, to be compared with the published ones.

    Raises:
        UsageError: The arguments do not fit together, or a folder is not what it should be.
        ImageError, MaskError: Something is missing, damaged or holds unknown values.
        OutputError: The folder cannot be written.
        PiclipError: Ctrl-C was pressed; finished masks stay.
    """
    if train_list not in TRAIN_LISTS:
        raise UsageError(
            f"There is no train list {train_list!r}; choose from {', '.join(TRAIN_LISTS)}."
        )
    folder = find_folder(
        voc, ("", "VOC2012", "VOCdevkit/VOC2012"), ("ImageSets/Segmentation",), "VOC 2012"
    )
    origin = _origin(folder, sbd, masks)
    val = _segmentation_keys(folder, "val")
    if list_file is None:
        train = _train_keys(folder, origin, train_list) - val
    else:
        train = read_keys(list_file)
        if train & val:
            raise UsageError(
                f"{list_file} names {len(train & val)} images of VOC's val list; remove them, or "
                f"methods would be trained on what they are measured on."
            )
    refuse_missing((train | val) - origin.keys, "masks", origin.folder, "complete the folder")
    published: dict[Split, int] = {"val": PUBLISHED_VAL}
    if list_file is None:
        published["train"] = PUBLISHED_COUNTS[train_list]
    lists: dict[Split, list[Listed]] = {"train": _listed(train), "val": _listed(val)}
    plan = Plan("pascal-5i", class_names("voc"), folder, origin.name, lists, origin.read, published)
    return carry_out(plan, out, progress)


@dataclass(frozen=True)
class _Origin:
    """Where masks come from: the images that have one, and how it is read."""

    name: str
    folder: Path
    keys: frozenset[str]
    read: Callable[[str], ClassMap]
    train_noval: Path | None


def _origin(voc: Path, sbd: Path | None, masks: Path | None) -> _Origin:
    count = len(class_names("voc"))
    if masks is not None and sbd is None:
        folder = masks
        return _Origin(
            name="ready class masks",
            folder=folder,
            keys=frozenset(names_in(folder, ".png")),
            read=lambda key: read_class_map(folder / f"{key}.png", count),
            train_noval=None,
        )
    if masks is not None or sbd is None:
        raise UsageError(
            "Give either --sbd, the folder of SBD, or --masks, a ready SegmentationClassAug folder."
        )
    boundaries = SbdMasks(sbd)
    own = voc / "SegmentationClass"
    listed = _segmentation_keys(voc, "train") | _segmentation_keys(voc, "val")
    refuse_missing(listed - names_in(own, ".png"), "masks of VOC", own, "unpack the archive again")
    return _Origin(
        name="VOC 2012 and SBD",
        folder=boundaries.folder,
        keys=boundaries.keys | listed,
        read=lambda key: (
            read_class_map(own / f"{key}.png", count) if key in listed else boundaries.read(key)
        ),
        train_noval=boundaries.train_noval,
    )


def _segmentation_keys(voc: Path, split: Split) -> set[str]:
    return read_keys(voc / "ImageSets" / "Segmentation" / f"{split}.txt")


def _train_keys(voc: Path, origin: _Origin, train_list: str) -> set[str]:
    train = _segmentation_keys(voc, "train")
    if train_list == "aug":
        return train | origin.keys
    if origin.train_noval is not None:
        return train | read_keys(origin.train_noval)
    main = voc / "ImageSets" / "Main" / "train.txt"
    if not main.is_file():
        raise UsageError(
            f"The published train list needs SBD's train_noval.txt in the SBD folder or {main}, "
            f"and neither is there; put one there, or give the list with --list."
        )
    return train | (read_keys(main) & origin.keys)


def read_keys(path: Path) -> set[str]:
    """Read the image names of a list: the stem of the first entry of each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path} cannot be read as a list of images ({error}).") from error
    keys = {Path(line.split()[0]).stem for line in lines if line.strip()}
    if not keys:
        raise UsageError(f"{path} names no image; give a list with one image per line.")
    return keys


def _listed(keys: Iterable[str]) -> list[Listed]:
    return [Listed(key, f"JPEGImages/{key}.jpg") for key in sorted(keys)]
