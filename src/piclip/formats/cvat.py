"""CVAT's own XML ("CVAT for images 1.1"), read only: CVAT imports COCO JSON.

Polygons, masks, boxes and ellipses, turned ones too; points, lines and cuboids are no areas and are
left out, tags say nothing about pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from piclip.errors import ImageError, MaskError, PiclipError, UsageError
from piclip.formats.image_files import locate_images, not_there, relative_path
from piclip.formats.label_files import Problems, load_xml
from piclip.formats.labels import LabelledFile, Labels, Region, check_class
from piclip.formats.polygons import Corners, corners_from, ellipse, rectangle, turned
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import check_pixels
from piclip.io.images import MAX_PIXELS

_FILE = "annotations.xml"
_NO_SHAPES = frozenset({"tag", "attribute"})


def recognise(source: Path) -> bool:
    """Is this CVAT's XML, or a folder with one?"""
    path = source / _FILE if source.is_dir() else source
    if path.suffix.lower() != ".xml" or not path.is_file():
        return False
    root = load_xml(path)
    return root.tag == "annotations" and root.find("image") is not None


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read an XML file, or the folder with its ``annotations.xml``, as `read_labels` says.

    ``images`` is not needed. Boxes are areas that somebody drew, so they are always masks.
    """
    path = Path(source) / _FILE if Path(source).is_dir() else Path(source)
    root = load_xml(path)
    if root.tag != "annotations" or root.find("track") is not None:
        raise UsageError(f"{path}: this is no export of CVAT for images; choose that one in CVAT.")
    problems, files = Problems(), []
    listed = [(element, _text(element, "name", str(path))) for element in root.iter("image")]
    located = locate_images((name for _, name in listed), images)
    for element, name in listed:
        where = f"{path}: image {name!r}"
        with problems.noted():
            size = _size(element, where)
            shapes = [shape for shape in element if shape.tag not in _NO_SHAPES]
            if shapes and name not in located:
                problems.note(not_there(name, images))
                shapes = []
            regions = []
            for index, shape in enumerate(shapes):
                item = f"{where}, shape {index} ({shape.tag})"
                with problems.noted():
                    label = _text(shape, "label", item, MaskError)
                    if class_names:
                        check_class(label, class_names, item)
                    regions.append(Region(label, _mask(shape, size, item)))
            place = located.get(name, relative_path(name))
            files.append(LabelledFile(place, *size, regions=tuple(regions)))
    if listed and not files:
        raise ImageError(problems.sentences[0])
    listed_names = (label.findtext("name") for label in root.iterfind("./meta/*/labels/label"))
    found = [*filter(None, listed_names), *(name for file in files for name in file.class_names)]
    names = tuple(class_names) or tuple(dict.fromkeys(found))
    return Labels(names, tuple(files), skipped=tuple(problems.sentences))


def _mask(shape: Element, size: tuple[int, int], where: str) -> RunLengthMask:
    if shape.tag == "mask":
        return _bitmap(shape, size, where)
    return RunLengthMask.from_polygons([_outline(shape, where)], size, where)


def _outline(shape: Element, where: str) -> Corners:
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        return corners_from(pairs, where)
    [[degrees, _]] = corners_from([shape.get("rotation", "0"), 0], where)
    if shape.tag == "box":
        corner, opposite = _points(shape, ("xtl", "ytl", "xbr", "ybr"), where)
        return turned(rectangle(corner, opposite), (corner + opposite) / 2, degrees)
    if shape.tag == "ellipse":
        centre, radii = _points(shape, ("cx", "cy", "rx", "ry"), where)
        return ellipse(centre, radii, degrees)
    raise MaskError(
        f"{where}: this is no area and cannot be used as a mask; draw a polygon, a mask, a box or "
        f"an ellipse."
    )


def _points(shape: Element, names: Sequence[str], where: str) -> Corners:
    return corners_from([shape.get(name) for name in names], where)


def _bitmap(shape: Element, size: tuple[int, int], where: str) -> RunLengthMask:
    """Row by row within its box, the run lengths begin with pixels that are not the object."""
    try:
        left, top, width, height = (
            int(shape.get(n, "")) for n in ("left", "top", "width", "height")
        )
        runs = [int(run) for run in shape.get("rle", "").split(",")]
    except ValueError as error:
        raise MaskError(f"{where}: the mask is not whole numbers; export it again.") from error
    inside = min(left, top) >= 0 and left + width <= size[1] and top + height <= size[0]
    if not inside or min(width, height, *runs) < 0 or sum(runs) != width * height:
        raise MaskError(
            f"{where}: the mask is damaged or belongs to an image of another size than {size[1]} x "
            f"{size[0]} pixels (width x height); export the labels again."
        )
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return RunLengthMask.from_box(pixels, (top, left), size).not_empty(where)


def _text(element: Element, name: str, where: str, error: type[PiclipError] = UsageError) -> str:
    value = element.get(name)
    if not value:
        raise error(f"{where}: <{element.tag}> has no {name}; export the labels again.")
    return value


def _size(element: Element, where: str) -> tuple[int, int]:
    """(height, width) of an image (ImageError if it is none, or too large)."""
    size = {name: _text(element, name, where) for name in ("height", "width")}
    for name, value in size.items():
        if not value.isdecimal() or len(value) > 9:
            raise UsageError(f"{where}: the {name} is no whole number; export the labels again.")
    height, width = map(int, size.values())
    check_pixels(where, width, height, MAX_PIXELS)
    return height, width
