"""labelme JSON: one file per image, beside it.

In: polygons, rectangles and masks; shapes with one label and one group number are one object.
Out: polygons along pixel edges, several with a group number for an object in parts, and masks for
objects with holes, which labelme's polygons cannot have. Reading keeps the pixels that a polygon
covers, not its corners. The flags of an image are kept, and presence is in the description of each
shape. Lost on the way: crowds, pixels to ignore, scores, and the order of the classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import relative_path
from piclip.formats.label_files import dump_json, field, image_size_field, json_if_any, load_json
from piclip.formats.labels import LabelledFile, Labels, Region, check_class
from piclip.formats.polygons import corners_from, outlines
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import decode_bytes, reason
from piclip.io.images import MAX_PIXELS

_VERSION = "5.5.0"


def recognise(source: Path) -> bool:
    """Is this a labelme file, or a folder with one?"""
    first = next(iter(sorted(source.rglob("*.json"))), None) if source.is_dir() else source
    content = None if first is None else json_if_any(first)
    return isinstance(content, dict) and "shapes" in content


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read one labelme file or a folder of them, as `read_labels` says.

    ``images`` is not needed. A file without shapes is an image without label.
    """
    path = Path(source)
    root = path if path.is_dir() else path.parent
    paths = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise UsageError(f"{path}: there are no labelme files (.json) here; check the path.")
    files = [_read_file(p, p.relative_to(root).parent.as_posix(), class_names) for p in paths]
    found = dict.fromkeys(name for file in files for name in file.class_names)
    return Labels(tuple(class_names or found), tuple(files))


def write(labels: Labels, destination: str | Path, *, simplify: float = 0.0) -> list[Path]:
    """Write one labelme file per image, unlabelled ones too, as `write_labels` says.

    labelme opens the files where the images lie beside them.
    """
    return [
        dump_json(_content(file, simplify), Path(destination) / target)
        for file, target in labels.with_paths(".json")
    ]


def _read_file(path: Path, folder: str, class_names: Sequence[str]) -> LabelledFile:
    content = load_json(path)
    size = image_size_field(content, str(path), height="imageHeight", width="imageWidth")
    image = PurePosixPath(folder, relative_path(field(content, "imagePath", str, str(path))))
    parts: dict[tuple[str, object], list[RunLengthMask]] = {}
    for index, shape in enumerate(field(content, "shapes", list, str(path))):
        where = f"{path}: shape {index}"
        name = field(shape, "label", str, where)
        if class_names:
            check_class(name, class_names, where)
        group = shape.get("group_id")
        key = (name, ("alone", index) if group is None else ("group", str(group)))
        parts.setdefault(key, []).append(_mask(shape, size, where))
    regions = [Region(name, RunLengthMask.union(masks)) for (name, _), masks in parts.items()]
    flags = content.get("flags")
    extra = {"flags": flags} if isinstance(flags, dict) and flags else None
    return LabelledFile(str(image), *size, regions=tuple(regions), extra=extra)


def _mask(shape: dict[str, Any], size: tuple[int, int], where: str) -> RunLengthMask:
    kind = shape.get("shape_type", "polygon")
    corners = corners_from(field(shape, "points", list, where), where)
    if kind == "polygon":
        return RunLengthMask.from_polygons([corners], size, where)
    if kind not in {"rectangle", "mask"}:
        raise UsageError(
            f"{where}: a {kind} cannot be used as a mask; draw a polygon, a rectangle or a mask."
        )
    if len(corners) != 2:
        raise MaskError(f"{where}: a {kind} needs two corners; draw it anew.")
    (left, top), (right, bottom) = corners
    if kind == "rectangle":
        box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return RunLengthMask.from_polygons([box], size, where)
    small = _decode(field(shape, "mask", str, where), where)
    mask = np.zeros(size, dtype=np.bool_)
    y, x = int(top), int(left)
    if x < 0 or y < 0 or y + small.shape[0] > size[0] or x + small.shape[1] > size[1]:
        raise MaskError(
            f"{where}: the mask lies outside the image of {size[1]} x {size[0]} pixels (width x "
            f"height); check that the label belongs to this image."
        )
    mask[y : y + small.shape[0], x : x + small.shape[1]] = small
    return RunLengthMask.from_array(mask).not_empty(where)


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
    shapes = [
        shape
        for group, region in enumerate(file.regions)
        for shape in _shapes(file, region, group, simplify)
    ]
    return {
        "version": _VERSION,
        "flags": (file.extra or {}).get("flags", {}),
        "shapes": shapes,
        "imagePath": PurePosixPath(file.path).name,
        "imageData": None,
        "imageHeight": file.height,
        "imageWidth": file.width,
    }


def _shapes(
    file: LabelledFile, region: Region, group: int, simplify: float
) -> list[dict[str, Any]]:
    told = file.presence and f"presence {file.presence[region.class_name]:.4f}"
    common = {"label": region.class_name, "flags": {}, "description": told or ""}
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
                "group_id": None,
            }
        ]
    return [
        common
        | {
            "shape_type": "polygon",
            "points": loops[0].tolist(),
            "group_id": group if len(parts) > 1 else None,
        }
        for loops in parts
    ]
