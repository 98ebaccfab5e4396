"""Leave out what nobody would have drawn: specks, holes, all parts but the largest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from piclip.errors import UsageError
from piclip.formats.labels import LabelledFile, Region
from piclip.formats.run_length import RunLengthMask

TOUCHING = np.ones((3, 3), dtype=np.bool_)  # pixels of one part touch at a side or a corner

_AREA = re.compile(r"(\d+(?:\.\d+)?) ?(%?)")
_DIGITS = 4


@dataclass(frozen=True)
class Cleaning:
    """What becomes of the parts of a class in an image; first holes are filled, last is largest.

    The area is a number of pixels, or a text such as "0.1%" of the image's (or else a UsageError).
    """

    min_area: float | str = 0  # parts with fewer pixels are left out
    largest: bool = False  # only the largest part of each class is kept
    fill_holes: bool = False  # holes without another class become part of what is around them

    def __post_init__(self) -> None:
        least_area(self.min_area, (1, 1))

    def regions(self, file: LabelledFile) -> LabelledFile:
        """Clean the regions of a prediction, each of which is a part; see the class.

        The score of a region with filled holes stays the mean over the pixels that had one.
        """
        least = least_area(self.min_area, file.size)
        kept: list[Region] = []
        for name in file.class_names:
            parts = [region for region in file.regions if region.class_name == name]
            if self.fill_holes:
                parts = _filled(parts, [r for r in file.regions if r.class_name != name])
            parts = [part for part in parts if part.mask.area >= least]
            if self.largest:
                parts = sorted(parts, key=lambda part: -part.mask.area)[:1]
            kept += parts
        return replace(file, regions=tuple(kept))

    def class_map(self, class_map: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.uint8]:
        """Clean a class map, uint8 (H, W) with 0 for background and 1 to ``classes``."""
        if self == AS_FOUND:
            return class_map
        least = least_area(self.min_area, class_map.shape)
        cleaned = class_map.copy()
        for index in range(1, classes + 1):
            mask = class_map == index
            cleaned[mask] = 0
            if self.fill_holes:
                mask = filled(mask, (class_map > 0) & ~mask)
            parts, _ = ndimage.label(mask, structure=TOUCHING)
            areas = np.bincount(parts.ravel())
            areas[0] = 0  # what is not of the class
            kept = (areas >= least) & (areas > 0)
            if self.largest:
                kept &= np.arange(len(areas)) == areas.argmax()
            cleaned[kept[parts]] = index
        return cleaned


def kept(file: LabelledFile, min_score: float, cleaning: Cleaning) -> LabelledFile:
    """What of an image's proposals is written: those that score high enough, cleaned."""
    regions = tuple(r for r in file.regions if (r.score or 0) >= min_score)
    return cleaning.regions(replace(file, regions=regions))


def filled(mask: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Fill holes of a mask, bool (H, W): those within the image that hold none of the others.

    Their pixels touch at sides alone, since those of parts touch at corners, too.
    """
    around, count = ndimage.label(~mask)
    stays = np.zeros(count + 1, dtype=np.bool_)
    for border in (around[0], around[-1], around[:, 0], around[:, -1], around[others]):
        stays[border] = True
    stays[0] = False  # the mask itself
    return np.asarray(~stays[around])


def least_area(area: float | str, size: Sequence[int]) -> float:
    """The pixels that 20, "20" or "0.1%" asks for in an image of (height, width), or UsageError."""
    found = _AREA.fullmatch(str(area).strip())
    if found is None:
        raise UsageError(
            f"The least area must be a number of pixels, or a share of the image such as 0.1%, not "
            f"{str(area)!r}."
        )
    number, percent = float(found[1]), found[2]
    if percent and number > 100:
        raise UsageError(f"The least area must be at most 100% of the image, not {area}.")
    return number / 100 * size[0] * size[1] if percent else number


def _filled(parts: Sequence[Region], others: Sequence[Region]) -> list[Region]:
    """The parts of a class without their holes; those that lay in a hole are one with its part."""
    whole = RunLengthMask.union([part.mask for part in parts]).to_array()
    taken = [other.mask for other in others]
    taboo = RunLengthMask.union(taken).to_array() if taken else np.zeros_like(whole)
    full = filled(whole, taboo & ~whole)
    if (full == whole).all():
        return list(parts)
    numbers, count = ndimage.label(full, structure=TOUCHING)
    inside: list[list[Region]] = [[] for _ in range(count)]
    for part in parts:
        inside[numbers[part.mask.to_array()][0] - 1].append(part)
    return [
        replace(own[0], mask=RunLengthMask.from_array(numbers == number), score=_score(own))
        for number, own in enumerate(inside, start=1)
    ]


def _score(parts: Sequence[Region]) -> float | None:
    """The mean over the pixels of those that have one."""
    scores = [part.score for part in parts if part.score is not None]
    areas = [part.mask.area for part in parts if part.score is not None]
    return round(float(np.average(scores, weights=areas)), _DIGITS) if scores else None


AS_FOUND = Cleaning()  # leaves all as it is
