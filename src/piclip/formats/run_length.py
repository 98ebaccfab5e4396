"""Masks of labelled regions, kept as run lengths (by pycocotools): small, exact, comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from piclip.errors import MaskError
from piclip.io.extras import library

_MARGIN, _SHARE = 1.0, 0.1
"""By how many pixels, or which share of the image's side if that is more, tools let polygons reach
over the frame, where they are clipped; more means another image or another scale."""


@dataclass(frozen=True, slots=True)
class RunLengthMask:
    """One mask in COCO's compressed run-length coding; equal masks compare equal.

    Attributes:
        height: Pixels.
        width: Pixels.
        counts: The runs as pycocotools writes them, column by column.
    """

    height: int
    width: int
    counts: bytes

    @classmethod
    def from_array(cls, mask: npt.NDArray[np.bool_]) -> RunLengthMask:
        """Packs a bool mask (H, W), exactly."""
        packed = library("pycocotools.mask").encode(np.asfortranarray(mask, dtype=np.uint8))
        return cls(mask.shape[0], mask.shape[1], packed["counts"])

    @classmethod
    def from_box(
        cls, pixels: npt.NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]
    ) -> RunLengthMask:
        """As `from_array`, without a look at the pixels outside a box, of which there may be many.

        ``pixels`` are those in the box, bool (h, w), ``corner`` is its (top, left).
        """
        (height, width), (top, left) = size, corner
        columns, rows = np.nonzero(pixels.T)
        places = (columns + left) * height + rows + top  # column by column, as the runs
        starts = places[np.diff(places, prepend=-2) > 1]
        ends = places[np.diff(places, append=height * width + 1) > 1] + 1
        edges = np.r_[0, np.stack([starts, ends], axis=1).ravel(), height * width]
        runs = np.diff(edges).tolist()
        given = {"size": [height, width], "counts": runs if runs[-1] else runs[:-1]}
        packed = library("pycocotools.mask").frPyObjects(given, height, width)
        return cls(height, width, packed["counts"])

    @classmethod
    def from_polygons(
        cls, polygons: Sequence[npt.NDArray[np.float64]], size: tuple[int, int], where: str
    ) -> RunLengthMask:
        """Fills polygons by COCO's own rule; several make one mask together.

        Corners are (N, 2), x and y in pixels, (0, 0) the outer corner of the first one. What
        reaches a little over the image's frame is clipped, and parts of one or two corners, which
        cover no pixel, are passed over if there are others.

        Raises:
            MaskError: Fewer than three corners, corners that are no numbers or lie far (a tenth
                of its side, and more than a pixel) outside the image, or no pixel inside.
        """
        outlines = [corners for corners in polygons if len(corners) > 2] or polygons
        for corners in outlines:
            _check_polygon(corners, size, where)
        flat = [corners.ravel().tolist() for corners in outlines]
        return cls.filled(flat, size).not_empty(where)

    @classmethod
    def filled(cls, polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> RunLengthMask:
        """Fills polygons x, y, x, y ... by COCO's own rule, unchecked; may hold no pixel."""
        if not polygons:
            return cls.from_array(np.zeros(size, dtype=np.bool_))
        api = library("pycocotools.mask")
        parts = api.frPyObjects(polygons, *size)
        packed = parts[0] if len(parts) == 1 else api.merge(parts)
        return cls(*size, packed["counts"])

    @classmethod
    def from_runs(
        cls, runs: Sequence[int] | str, size: tuple[int, int], where: str
    ) -> RunLengthMask:
        """Takes COCO's run lengths, plain numbers or the compressed text; may hold no pixel.

        A MaskError if they are damaged or do not fill the image.
        """
        height, width = size
        numbers = _decompress(runs) if isinstance(runs, str) else list(runs)
        # pycocotools reads past the end of runs that do not fit.
        if (
            numbers is None
            or not all(type(number) is int and number >= 0 for number in numbers)
            or sum(numbers) != height * width
        ):
            raise MaskError(
                f"{where}: the run lengths are damaged or belong to an image of another size than "
                f"{width} x {height} pixels (width x height); export the labels again."
            )
        api = library("pycocotools.mask")
        given = api.frPyObjects({"size": [height, width], "counts": numbers}, height, width)
        # Others may write runs of length 0; encoded anew, equal masks have equal runs.
        return cls.from_array(api.decode(given))

    @classmethod
    def union(cls, masks: Sequence[RunLengthMask]) -> RunLengthMask:
        """All pixels of one or more masks of one size."""
        packed = library("pycocotools.mask").merge([mask.as_coco() for mask in masks])
        return cls(masks[0].height, masks[0].width, packed["counts"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(library("pycocotools.mask").area(self.as_coco()))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) in pixels; zeros for a mask without pixels."""
        left, top, width, height = library("pycocotools.mask").toBbox(self.as_coco())
        return int(left), int(top), int(width), int(height)

    def to_array(self) -> npt.NDArray[np.bool_]:
        """Bool (H, W)."""
        return np.asarray(library("pycocotools.mask").decode(self.as_coco()), dtype=np.bool_)

    def as_coco(self) -> dict[str, Any]:
        """``{"size": [height, width], "counts": bytes}`` for pycocotools."""
        return {"size": [self.height, self.width], "counts": self.counts}

    def not_empty(self, where: str) -> RunLengthMask:
        """Refuses a mask without pixels (MaskError)."""
        if not self.counts or self.area == 0:
            raise MaskError(f"{where}: the label covers no pixel; draw it anew or delete it.")
        return self


def _check_polygon(corners: npt.NDArray[np.float64], size: tuple[int, int], where: str) -> None:
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2:
        raise MaskError(f"{where}: a polygon needs three corners or more; draw it anew.")
    if not np.isfinite(corners).all():
        raise MaskError(f"{where}: a corner of the polygon is no number; draw it anew.")
    sides = np.array(size[::-1])
    margin = np.maximum(_MARGIN, _SHARE * sides)
    outside = (corners < -margin) | (corners > sides + margin)
    if outside.any():
        x, y = corners[outside.any(axis=1)][0]
        raise MaskError(
            f"{where}: the polygon's corner ({x:g}, {y:g}) lies outside the image of {size[1]} x "
            f"{size[0]} pixels (width x height); check that the label belongs to this image."
        )


def _decompress(text: str) -> list[int] | None:
    """The runs in COCO's compressed text, None where it is damaged."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:  # a run without end takes a time without end
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        # From the fourth on, runs are written as differences to the last but one.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None
