"""PASCAL-5i from VOC 2012 and SBD: whose mask counts, and which images are listed.

SBD is the Semantic Boundaries Dataset, whose masks are MATLAB files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.clip.prompts import class_names
from piclip.datasets.dataset import Split, check_choice
from piclip.datasets.prepare.preparation import (
    ClassMap,
    Plan,
    Prepared,
    carry_out,
    names_in,
    refuse_missing,
)
from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.voc import read_class_map
from piclip.io.documents import check_regular, read_text
from piclip.io.outputs import Progress

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

    Raises:
        UsageError: The arguments do not fit together, or a folder is not what it should be.
        ImageError, MaskError: Something is missing, damaged or holds unknown values.
        OutputError, PiclipError: As `carry_out`.
    """
    check_choice("train list", train_list, PUBLISHED_COUNTS)
    folder = _find_folder(
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
    both: dict[Split, set[str]] = {"train": train, "val": val}
    lists = {s: {key: f"JPEGImages/{key}.jpg" for key in sorted(both[s])} for s in both}
    plan = Plan("pascal-5i", class_names("voc"), folder, origin.name, lists, origin.read, published)
    return carry_out(plan, out, progress)


@dataclass(frozen=True)
class _Origin:
    """Where masks come from: the images that have one, how it is read, and SBD's own list."""

    name: str
    folder: Path
    keys: frozenset[str]
    read: Callable[[str], ClassMap]
    train_noval: Path | None = None


def _origin(voc: Path, sbd: Path | None, masks: Path | None) -> _Origin:
    count = len(class_names("voc"))
    if masks is not None and sbd is None:
        return _Origin(
            "ready class masks",
            masks,
            frozenset(names_in(masks, ".png")),
            lambda key: read_class_map(masks / f"{key}.png", count),
        )
    if masks is not None or sbd is None:
        raise UsageError(
            "Give either --sbd, the folder of SBD, or --masks, a ready SegmentationClassAug folder."
        )
    boundaries = _sbd_origin(sbd)
    own = voc / "SegmentationClass"
    listed = _segmentation_keys(voc, "train") | _segmentation_keys(voc, "val")
    refuse_missing(listed - names_in(own, ".png"), "masks of VOC", own, "unpack the archive again")
    return replace(
        boundaries,
        keys=boundaries.keys | listed,
        read=lambda key: (
            read_class_map(own / f"{key}.png", count) if key in listed else boundaries.read(key)
        ),
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
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as a list of images ({error}).") from error
    keys = {Path(line.split()[0]).stem for line in lines if line.strip()}
    if not keys:
        raise UsageError(f"{path} names no image; give a list with one image per line.")
    return keys


def _sbd_origin(root: Path) -> _Origin:
    """The masks of an SBD folder: ``cls`` (of classes) or else ``inst`` (of single objects)."""
    folder = _find_folder(
        root, ("", "dataset", "benchmark_RELEASE/dataset"), ("cls", "inst"), "SBD"
    )
    kind = "cls" if (folder / "cls").is_dir() else "inst"
    read = _read_class_mat if kind == "cls" else read_instance_mat
    lists = [place / "train_noval.txt" for place in (folder, folder.parent, folder.parent.parent)]
    return _Origin(
        "VOC 2012 and SBD",
        folder,
        frozenset(names_in(folder / kind, ".mat")),
        lambda key: read(folder / kind / f"{key}.mat"),
        next((path for path in lists if path.is_file()), None),
    )


def _read_class_mat(path: Path) -> ClassMap:
    """Read ``cls/KEY.mat``: the field Segmentation of the struct GTcls (MaskError if damaged)."""
    return _as_class_map(_fields(path, "GTcls", "Segmentation")[0], path)


def read_instance_mat(path: Path) -> ClassMap:
    """Read ``inst/KEY.mat``: numbers of objects (GTinst.Segmentation), which have Categories.

    Raises:
        MaskError: The file is missing, damaged or of another structure.
    """
    segmentation, numbers = _fields(path, "GTinst", "Segmentation", "Categories")
    objects, categories = _as_class_map(segmentation, path), np.asarray(numbers).ravel()
    if categories.size and not (categories.min() >= 1 and categories.max() <= 254):
        raise MaskError(f"{path}: the categories of the objects are no class numbers.")
    classes = np.concatenate([[0], categories]).astype(np.uint8)
    if objects.max() >= len(classes):
        raise MaskError(
            f"{path}: object {objects.max()} has no category among the {len(classes) - 1} listed; "
            f"unpack the archive again."
        )
    return np.asarray(classes[objects])


def _find_folder(root: Path, places: tuple[str, ...], markers: tuple[str, ...], name: str) -> Path:
    """The first of the places below ``root`` that holds one of the marker folders (UsageError)."""
    for place in places:
        if any((root / place / marker).is_dir() for marker in markers):
            return root / place
    wanted = " or ".join(markers)
    raise UsageError(
        f"{root} is no folder of {name}: {wanted} is not in it; give the folder that holds it."
    )


def _fields(path: Path, struct: str, *names: str) -> list[NDArray[Any]]:
    """Fields of a MATLAB struct."""
    from scipy.io import loadmat  # noqa: PLC0415 - slow to import, and only needed here

    try:
        check_regular(path)
        with path.open("rb") as file:
            record = loadmat(file, variable_names=[struct])[struct][0, 0]
            return [record[name] for name in names]
    except Exception as error:  # SciPy's reader raises anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(
            f"{path}: the file cannot be read as a mask of SBD ({reason}); unpack the archive "
            f"again."
        ) from error


def _as_class_map(array: NDArray[Any], path: Path) -> ClassMap:
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "ui":
        raise MaskError(
            f"{path}: the Segmentation is no matrix of whole numbers; unpack the archive again."
        )
    if array.min() < 0 or array.max() > 255:
        raise MaskError(f"{path}: the Segmentation holds values beyond 0 to 255.")
    return array.astype(np.uint8)
