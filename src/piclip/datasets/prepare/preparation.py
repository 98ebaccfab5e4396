"""Write prepared folders, taken up again where they were stopped.

``dataset.json`` holds format, name, class names, the folder of photographs and what the masks
were made from. ``masks/KEY.png`` are class maps with VOC's palette: 0 background, class index + 1,
255 ignore. ``lists/SPLIT.txt`` has a photograph and its mask per line, parted by a tab and relative
to the folder of photographs and to the prepared folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from piclip.datasets.dataset import Split
from piclip.datasets.prepared import FORMAT, SPLITS, read_description
from piclip.errors import DatasetError, ImageError, PiclipError, UsageError
from piclip.formats.voc import check_values
from piclip.io.outputs import (
    Progress,
    atomic_path,
    ensure_folder,
    summed,
    write_json,
    write_png,
)
from piclip.io.overlays import class_map_image

ClassMap: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Prepared:
    """What a preparation leaves."""

    folder: Path  # the prepared folder
    counts: Mapping[Split, int]  # images per list
    published: Mapping[Split, int]  # images that the published lists hold, where that is known
    made: int  # masks written by this run
    kept: int  # masks that were there from an earlier run

    @property
    def departures(self) -> list[str]:
        """One sentence for each list that does not have the published length."""
        return [
            f"The {split} list has {self.counts[split]} images, not the published {count}."
            for split, count in self.published.items()
            if split in self.counts and self.counts[split] != count
        ]


@dataclass(frozen=True)
class Plan:
    """Everything a preparation needs to know before it writes.

    The photographs of ``lists`` are by the keys of their images, the masks' stems: paths relative
    to ``images``, with forward slashes. No key is in two lists.
    """

    name: str  # as ``open_dataset`` takes it
    class_names: tuple[str, ...]  # in the order of their values
    images: Path  # the folder of photographs
    made_from: str  # masks of two origins are never mixed
    lists: Mapping[Split, Mapping[str, str]]
    mask: Callable[[str], ClassMap]  # makes the class map of a key
    published: Mapping[Split, int]  # lengths of the published lists


def carry_out(plan: Plan, out: Path, progress: Progress | None = None) -> Prepared:
    """Write a prepared folder; masks that are there from an earlier run are kept.

    The lists are written last, so a folder with lists has all their masks.

    Raises:
        UsageError: The folder holds masks of another origin, or no image is listed.
        DatasetError, MaskError, ImageError: A source is missing, damaged or holds unknown values.
        OutputError: The folder cannot be written.
        PiclipError: Ctrl-C was pressed; finished masks stay.
    """
    _check_photographs(plan)
    _start(plan, out)
    keys = [key for split in SPLITS for key in plan.lists.get(split, ())]
    masks = {key: out / "masks" / f"{key}.png" for key in keys}
    waiting = [key for key, path in masks.items() if not path.is_file()]
    kept = len(keys) - len(waiting)
    told = summed(progress, len(keys), kept)
    try:
        for key in waiting:
            class_map = plan.mask(key)
            check_values(class_map, len(plan.class_names), f"the mask of {key}")
            write_class_map(class_map, masks[key])
            told(1)
    except KeyboardInterrupt as error:
        there = sum(path.is_file() for path in masks.values())
        raise PiclipError(
            f"Stopped with {there} of {len(keys)} masks done; run the same command again to go on."
        ) from error
    for split, listed in plan.lists.items():
        lines = [f"{photograph}\tmasks/{key}.png\n" for key, photograph in listed.items()]
        with atomic_path(out / "lists" / f"{split}.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
    counts: dict[Split, int] = {split: len(listed) for split, listed in plan.lists.items()}
    return Prepared(out, counts, plan.published, len(waiting), kept)


def write_class_map(class_map: ClassMap, path: Path) -> Path:
    """Write a class map uint8 (H, W) as a PNG with VOC's palette, in full or not at all."""
    return write_png(class_map_image(class_map), path)


def names_in(folder: Path, suffix: str) -> set[str]:
    """Stems of the files of a folder with this suffix, but for hidden ones (ImageError)."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone, of a hundred thousand
    except OSError as error:
        raise ImageError(f"{folder} cannot be read ({error.strerror}); check the path.") from error
    return {n.removesuffix(suffix) for n in names if n.endswith(suffix) and not n.startswith(".")}


def refuse_missing(missing: Iterable[str], what: str, folder: Path, advice: str) -> None:
    """Raise a DatasetError that counts what is missing, unless nothing is."""
    names = sorted(missing)
    if names:
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DatasetError(f"{len(names)} {what} are missing in {folder} ({some}); {advice}.")


def _check_photographs(plan: Plan) -> None:
    """All photographs must be there before hours are spent on masks."""
    if not any(plan.lists.values()):
        raise UsageError(f"No image of {plan.images} would be listed; check what was given.")
    wanted = [Path(photograph) for listed in plan.lists.values() for photograph in listed.values()]
    for folder in sorted({path.parent for path in wanted}):
        there = names_in(plan.images / folder, "")
        missing = [path.name for path in wanted if path.parent == folder and path.name not in there]
        advice = "complete the folder, for example by unpacking the archive again"
        refuse_missing(missing, "photographs", plan.images / folder, advice)


def _start(plan: Plan, out: Path) -> None:
    """Write ``dataset.json``, unless the folder belongs to something else."""
    ensure_folder(out / "masks")
    earlier = read_description(out) if (out / "dataset.json").is_file() else {}
    for field, now in (("name", plan.name), ("made_from", plan.made_from)):
        before = earlier.get(field, now)
        if before != now:
            raise UsageError(
                f"{out} holds the masks of {before}, not of {now}; choose another --out or remove "
                f"the folder."
            )
    description = {
        "format": FORMAT,
        "name": plan.name,
        "class_names": list(plan.class_names),
        "images": str(plan.images.resolve()),
        "made_from": plan.made_from,
    }
    write_json(description, out / "dataset.json")
