"""Outlines of masks along their pixel edges: filled by COCO's rule they give back every pixel.

The corners are whole numbers, (0, 0) the outer corner of the first pixel. Viewers that fill
polygons with their border (OpenCV) show them one pixel larger at the right and at the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import FillType, contour_generator
from numpy.linalg import norm
from scipy import ndimage
from scipy.spatial import KDTree

from piclip.errors import MaskError

Corners = npt.NDArray[np.float64]


def outlines(mask: npt.NDArray[np.bool_], simplify: float = 0.0) -> list[list[Corners]]:
    """Trace a mask, bool (H, W).

    With ``simplify`` an outline may miss its corners by as many pixels, to have fewer of them; then
    it no longer gives back every pixel.

    Returns:
        For each connected part its outer outline and then those of its holes, each (N, 2) as
        x, y in pixels, not closed.
    """
    found = ndimage.find_objects(mask.astype(np.uint8))  # the box of all that is 1, if anything
    if not found:
        return []
    rows, columns = found[0]
    # Between pixel centres the level 0.5 crosses exactly the middles of pixel edges.
    padded = np.pad(mask[rows, columns], 1).astype(np.float64)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    traced: Any = generator.filled(0.5, np.inf)
    parts, offsets = traced
    shift = np.array([columns.start, rows.start]) - 0.5
    return [
        [_fewer(_corners(points[start:end]) + shift, simplify) for start, end in pairwise(at)]
        for points, at in zip(parts, offsets, strict=True)
    ]


def corners_from(numbers: object, where: str) -> Corners:
    """Corners (N, 2) as x, y from ``[x, y, x, y ...]`` or ``[[x, y] ...]`` (else MaskError)."""
    try:
        return np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError(
            f"{where}: a polygon must be a list of pairs of numbers; draw it anew."
        ) from error


def rectangle(corner: Corners, opposite: Corners, degrees: float = 0.0) -> Corners:
    """The corners (4, 2) of an upright rectangle, turned clockwise about the first one given."""
    (left, top), (right, bottom) = corner, opposite
    upright = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return turned(upright, corner, degrees)


def ellipse(centre: Corners, radii: Corners, degrees: float = 0.0) -> Corners:
    """An ellipse, turned clockwise, as a polygon (N, 2) that misses it by less than 0.05 pixels."""
    # A chord over the angle a misses its arc by r (1 - cos(a / 2)), about r a² / 8.
    longest = np.fmax.reduce(np.abs(radii), initial=1)  # of corners that are numbers
    sides = int(np.clip(np.ceil(10 * np.sqrt(longest)), 16, 4096))
    angles = np.arange(sides) * (2 * np.pi / sides)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii
    return turned(centre + around, centre, degrees)


def turned(corners: Corners, about: Corners, degrees: float) -> Corners:
    """Corners (N, 2) turned clockwise, as a viewer sees it, about a point x, y."""
    if not degrees:
        return corners
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray((corners - about) @ np.array([[cosine, sine], [-sine, cosine]]) + about)


def joined(loops: Sequence[Corners]) -> Corners:
    """Join outlines to one by slits of no width, for formats with one polygon per object.

    A slit is walked forth and back, which by the even-odd rule changes no pixel: holes stay holes
    and parts stay apart. Slits run between nearest corners, so that viewers that draw lines show
    little of them.
    """
    outline, *others = loops
    if not others:
        return outline
    tree = KDTree(outline)
    detours = []
    for loop in others:
        distances, nearest = tree.query(loop)
        start = int(np.argmin(distances))
        at = int(nearest[start])
        there = [np.roll(loop, -start, axis=0), loop[start : start + 1]]
        detours.append((at, np.concatenate([*there, outline[at : at + 1]])))
    pieces, last = [], 0
    for at, detour in sorted(detours, key=lambda found: found[0]):
        pieces += [outline[last : at + 1], detour]
        last = at + 1
    return np.concatenate([*pieces, outline[last:]])


def simplified(outline: Corners, tolerance: float) -> Corners:
    """Leave out corners of an outline (N, 2), not closed, by the algorithm of Douglas and Peucker.

    The new outline misses none of them by more than ``tolerance`` pixels.
    """
    first = int(np.argmax(norm(outline - outline.mean(axis=0), axis=1)))  # surely a corner
    outline = np.roll(outline, -first, axis=0)
    farthest = int(np.argmax(norm(outline - outline[0], axis=1)))
    line = np.concatenate([outline, outline[:1]])
    kept = {0, farthest}
    waiting = [(0, farthest), (farthest, len(outline))]
    while waiting:
        start, end = waiting.pop()
        if end - start < 2:
            continue
        chord, between = line[end] - line[start], line[start + 1 : end] - line[start]
        along = np.clip(between @ chord / (chord @ chord or 1), 0, 1)
        distances = norm(between - along[:, None] * chord, axis=1)
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = start + 1 + worst
            kept.add(middle)
            waiting += [(start, middle), (middle, end)]
    return outline[sorted(kept)]


def _fewer(outline: Corners, tolerance: float) -> Corners:
    """Simplified, unless no area would be left."""
    fewer = simplified(outline, tolerance) if tolerance else outline
    return fewer if len(fewer) > 2 else outline


def _corners(line: Corners) -> Corners:
    """Turn a closed line through the middles of pixel edges into one along these edges."""
    here, there = line[:-1], line[1:]
    # A middle with a fractional x lies on an upright edge, where neighbouring columns meet.
    upright_here, upright_there = here[:, 0] % 1 != 0, there[:, 0] % 1 != 0
    x = np.where(upright_here, here[:, 0], there[:, 0])
    y = np.where(upright_here, there[:, 1], here[:, 1])
    straight = (upright_here == upright_there)[:, None]
    corners = np.where(straight, (here + there) / 2, np.stack([x, y], axis=1))
    ahead, behind = np.roll(corners, -1, axis=0) - corners, corners - np.roll(corners, 1, axis=0)
    turns = ahead[:, 0] * behind[:, 1] != ahead[:, 1] * behind[:, 0]
    return np.asarray(corners[turns])
