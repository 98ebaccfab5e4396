"""labelme JSON: one file per image, beside it.

In: polygons, rectangles (turned ones too), circles and masks; points and lines are no areas and are
left out. Shapes with one label and one group number are one object.
Out: polygons along pixel edges, several with a group number for an object in parts, and masks for
objects with holes, which labelme's polygons cannot have. Reading keeps the pixels that a polygon
covers, not its corners; what else is said of it (flags, description, group, attributes of
X-AnyLabeling) is kept, as are shapes that are no areas and all other fields but the picture itself.
Presence is in the description of each shape. Lost on the way: crowds, pixels to ignore, scores, and
the order of the classes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import relative_path
from piclip.formats.label_files import (
    Problems,
    field,
    image_size_field,
    json_if_any,
    load_json,
    read_text,
    write_text,
)
from piclip.formats.labels import LabelledFile, Labels, Region, check_class, placed
from piclip.formats.polygons import Corners, corners_from, ellipse, outlines, rectangle
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import decode_bytes, reason
from piclip.io.images import MAX_PIXELS

_LOOKED_AT = 20  # files of a folder; some may be something else
_VERSION = "5.5.0"
_OF_FILE = frozenset({"shapes", "imagePath", "imageHeight", "imageWidth"})
_OF_SHAPE = frozenset({"label", "shape_type", "points", "mask"})
"""Fields that are written anew; all others are handed back as they are."""


def recognise(source: Path) -> bool:
    """Is this a labelme file, or a folder with one?"""
    paths = islice(sorted(source.rglob("*.json")), _LOOKED_AT) if source.is_dir() else [source]
    return any(map(_has_shapes, paths))


def _has_shapes(path: Path) -> bool:
    try:
        content = json_if_any(path)
    except UsageError:
        return False
    return isinstance(content, dict) and "shapes" in content


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read one labelme file or a folder of them, as `read_labels` says.

    ``images`` is not needed where the images lie beside the files. A file without shapes is an
    image without label.
    """
    path = Path(source)
    root = path if path.is_dir() else path.parent
    paths = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise UsageError(f"{path}: there are no labelme files (.json) here; check the path.")
    problems, contents = Problems(), {}
    for one in paths:
        with problems.noted(*([UsageError] if paths[1:] else [])):
            contents[one] = _load(one)
    if not contents:
        raise UsageError(problems.sentences[0])
    listed = [
        _file(at, at.relative_to(root).parent.as_posix(), content, class_names, problems)
        for at, content in contents.items()
    ]
    files = placed(listed, images, problems)
    found = dict.fromkeys(name for file in files for name in file.class_names)
    return Labels(tuple(class_names or found), files, skipped=tuple(problems.sentences))


def write(labels: Labels, destination: str | Path, *, simplify: float = 0.0) -> list[Path]:
    """Write one labelme file per image, unlabelled ones too, as `write_labels` says.

    labelme opens the files where the images lie beside them.
    """
    written = []
    for file, target in labels.with_paths(".json"):
        # On one line: indented, each corner would take a line.
        text = json.dumps(_content(file, simplify), allow_nan=False)
        written.append(write_text(text, Path(destination) / target))
    return written


def is_edited(path: Path) -> bool:
    """Whether a tool or a person has written a labelme file: in lines, where `write` has one."""
    return len(read_text(path).splitlines()) > 1


def _load(path: Path) -> dict[str, Any]:
    """What is in a labelme file, without its picture (UsageError or ImageError if it is none)."""
    content = load_json(path)
    field(content, "shapes", list, str(path))
    field(content, "imagePath", str, str(path))
    image_size_field(content, str(path), "imageHeight", "imageWidth")
    return {name: value for name, value in content.items() if name != "imageData"}


def _file(
    path: Path,
    folder: str,
    content: dict[str, Any],
    class_names: Sequence[str],
    problems: Problems,
) -> LabelledFile:
    size = content["imageHeight"], content["imageWidth"]
    image = PurePosixPath(folder, relative_path(content["imagePath"]))
    parts: dict[tuple[str, object], list[RunLengthMask]] = {}
    told: dict[tuple[str, object], dict[str, Any]] = {}
    others = []
    for index, shape in enumerate(content["shapes"]):
        where = f"{path}: image {image.name!r}, shape {index}"
        others.append(shape)
        with problems.noted():
            name = field(shape, "label", str, where, MaskError)
            if class_names:
                check_class(name, class_names, where)
            group = shape.get("group_id")
            key = (name, ("alone", index) if group is None else ("group", str(group)))
            mask = _mask(shape, size, where)
            parts.setdefault(key, []).append(mask)
            told.setdefault(key, _said(shape, _OF_SHAPE))
            others.pop()
    regions = [
        Region(key[0], RunLengthMask.union(masks), extra=told[key] or None)
        for key, masks in parts.items()
    ]
    said = _said(content, _OF_FILE) | ({"shapes": others} if others else {})
    extra = {"labelme": said} if said else None
    return LabelledFile(str(image), *size, regions=tuple(regions), extra=extra)


def _said(item: dict[str, Any], without: frozenset[str]) -> dict[str, Any]:
    """The other fields of a file or shape, without those that would be written all the same."""
    return {
        name: value
        for name, value in item.items()
        if name not in without and value not in (None, "", {}, [], _VERSION)
    }


def _mask(shape: dict[str, Any], size: tuple[int, int], where: str) -> RunLengthMask:
    kind = shape.get("shape_type", "polygon")
    corners = corners_from(shape.get("points"), where)
    if kind == "mask":
        return _bitmap(shape, corners, size, where)
    return RunLengthMask.from_polygons([_outline(kind, corners, where)], size, where)


def _outline(kind: object, corners: Corners, where: str) -> Corners:
    if kind in ("polygon", "oriented_rectangle", "rotation"):  # the last is X-AnyLabeling's word
        return corners
    if kind == "rectangle":
        if len(corners) == 2:
            return rectangle(*corners)
        if len(corners) == 4:
            return corners
        raise MaskError(f"{where}: a rectangle needs two or four corners; draw it anew.")
    if kind == "circle":
        if len(corners) != 2:
            raise MaskError(f"{where}: a circle needs its centre and one point; draw it anew.")
        centre, point = corners
        return ellipse(centre, np.full(2, np.linalg.norm(point - centre)))
    raise MaskError(
        f"{where}: a {kind} is no area and cannot be used as a mask; draw a polygon, a rectangle, "
        f"a circle or a mask."
    )


def _bitmap(
    shape: dict[str, Any], corners: Corners, size: tuple[int, int], where: str
) -> RunLengthMask:
    if len(corners) != 2 or not np.isfinite(corners).all():
        raise MaskError(f"{where}: a mask needs two corners; draw it anew.")
    text = shape.get("mask")
    if not isinstance(text, str):
        raise MaskError(f"{where}: the field 'mask' is missing or no text.")
    small = _decode(text, where)
    x, y = (int(number) for number in corners[0])
    if x < 0 or y < 0 or y + small.shape[0] > size[0] or x + small.shape[1] > size[1]:
        raise MaskError(
            f"{where}: the mask lies outside the image of {size[1]} x {size[0]} pixels (width x "
            f"height); check that the label belongs to this image."
        )
    return RunLengthMask.from_box(small, (y, x), size).not_empty(where)


def _decode(text: str, where: str) -> npt.NDArray[np.bool_]:
    try:
        image = decode_bytes(base64.b64decode(text, validate=True), "its picture", MAX_PIXELS)
    except (ImageError, ValueError) as error:
        why = reason(error).removesuffix(".")
        raise MaskError(
            f"{where}: the mask is damaged or too large ({why}); draw it anew."
        ) from error
    return np.asarray(image.convert("L")) > 0


def _content(file: LabelledFile, simplify: float) -> dict[str, Any]:
    said = dict((file.extra or {}).get("labelme", {}))
    others = said.pop("shapes", [])
    # Two objects of one class and group would be one.
    taken = [region.extra for region in file.regions if region.extra] + others
    groups = [item.get("group_id") for item in taken if isinstance(item, dict)]
    first = 1 + max((group for group in groups if isinstance(group, int)), default=-1)
    shapes = [
        shape
        for group, region in enumerate(file.regions, start=first)
        for shape in _shapes(file, region, group, simplify)
    ]
    return {
        "version": _VERSION,
        "flags": {},
        **said,
        "shapes": [*others, *shapes],
        "imagePath": PurePosixPath(file.path).name,
        "imageData": None,
        "imageHeight": file.height,
        "imageWidth": file.width,
    }


def _shapes(
    file: LabelledFile, region: Region, group: int, simplify: float
) -> list[dict[str, Any]]:
    told = file.presence and f"presence {file.presence[region.class_name]:.4f}"
    common: dict[str, Any] = {
        "label": region.class_name,
        "flags": {},
        "description": told or "",
        **(region.extra or {}),
    }
    mask = region.mask.to_array()
    parts = outlines(mask, simplify)
    if any(len(loops) > 1 for loops in parts):
        left, top, width, height = region.mask.box
        png = io.BytesIO()
        Image.fromarray(mask[top : top + height, left : left + width]).save(png, format="PNG")
        return [
            common
            | {
                "shape_type": "mask",
                "points": [[left, top], [left + width - 1, top + height - 1]],
                "mask": base64.b64encode(png.getvalue()).decode("ascii"),
                "group_id": common.get("group_id"),
            }
        ]
    return [
        common
        | {
            "shape_type": "polygon",
            "points": loops[0].tolist(),
            "group_id": common.get("group_id", group if len(parts) > 1 else None),
        }
        for loops in parts
    ]
