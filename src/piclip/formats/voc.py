"""Class maps as PASCAL VOC has them: one PNG per image of class indices, 255 = ignore.

The folder holds ``NAME.png`` for each image ``NAME.*`` and ``class_names.txt`` with one class per
line, that of index 0 first if it is the background in any spelling; or it is the root of a VOC or
of CVAT's "Segmentation mask 1.1", with ``SegmentationClass`` and, for maps in colours,
``labelmap.txt``. Lost on the way: which pixels belong to which object (all of a class in an image
become one region), pixels under another region (the smaller one is on top), crowds and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import PNG, LabelFiles
from piclip.formats.label_files import Problems, check_lines, read_lines, read_names, write_text
from piclip.formats.labels import LabelledFile, Labels, Region, check_class, names_by_index
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import decode, opened
from piclip.io.images import IGNORE, MAX_PIXELS
from piclip.io.outputs import write_png
from piclip.io.overlays import class_map_image

_NAMES, _COLOURS = "class_names.txt", "labelmap.txt"
_MAPS = ("SegmentationClass", "SegmentationClassPNG")
_BACKGROUND = frozenset({"background", "bg"})
_LOOKED_AT = 20  # files of a folder; in some of them there may be only one class
_SMALL = 32
_VOID = 0xE0E0C0  # the colour of VOC's index 255


def recognise(source: Path) -> bool:
    """Is this a root of VOC, or a folder of class maps or with names for their indices?"""
    if not source.is_dir():
        return False
    maps = _maps_in(source)
    if maps != source or any((source / name).is_file() for name in (_NAMES, _COLOURS)):
        return True
    if source.name in _MAPS and (source.parent / _COLOURS).is_file():
        return True
    first = next(iter(sorted(source.glob(PNG))), None)
    if first is not None and _mode(first) == "P":
        return True
    some = islice(sorted(source.rglob(PNG)), _LOOKED_AT)
    return any(is_class_map(path) for path in some if _mode(path) == "L")


def is_class_map(path: Path) -> bool:
    """Whether a mask holds several small values above 0, or several colours, as maps of classes do.

    Masks with soft borders hold greater values, too, and shades of one colour. A file that cannot
    be read, or with loss, is none.
    """
    try:
        image = decode(path, MAX_PIXELS)
    except ImageError:
        return False
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or image.format in {"JPEG", "MPO", "WEBP"}:
        return False
    if image.mode in {"RGB", "RGBA"}:
        opaque = image.mode == "RGB" or bool(pixels[:, :, 3].min() > 0)  # else alpha is the mask
        return opaque and _hues(pixels[:, :, :3]) > 1
    if pixels.ndim != 2:
        return False
    values = np.flatnonzero(np.bincount(pixels.ravel())).tolist()
    marks = [value for value in values if value not in {0, IGNORE}]
    return values[0] == 0 and len(marks) > 1 and marks[-1] <= _SMALL


def _hues(rgb: npt.NDArray[np.uint8]) -> int:
    """The number of colours (gray is none) of light pixels, where shades of one count once."""
    apart = 1 + rgb.size // 50_000_000  # of a large mask, a part says it
    rgb = rgb[::apart, ::apart]
    top = rgb.max(axis=2)
    light = rgb[(top >= 128) & (rgb.min(axis=2) < top)].astype(np.float32)
    steps = np.round(4 * light / light.max(axis=1, keepdims=True)).astype(np.int64)
    return np.count_nonzero(np.bincount(steps @ np.array([25, 5, 1])))


def _mode(path: Path) -> str:
    """Pillow's name of the kind of pixels; empty where the file cannot be read."""
    try:
        with opened(path, MAX_PIXELS) as image:
            return image.mode
    except ImageError:
        return ""


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read a folder of class maps, those in subfolders too, as `read_labels` says.

    ``images`` is needed unless a folder ``JPEGImages`` lies beside the maps, and ``class_names`` in
    the order of their indices where there is neither class_names.txt nor labelmap.txt. There is one
    region per class and image.
    """
    folder = _maps_in(Path(source))
    if images is None and (folder.parent / "JPEGImages").is_dir():
        images = folder.parent / "JPEGImages"
    problems = Problems()
    others = [path for path in folder.parent.glob("Segmentation*") if path != folder]
    maps = LabelFiles(*(folder, folder.rglob(PNG), images, "class maps", problems), without=others)
    colours = _ColourMap.beside(folder)
    named = colours.class_names if colours else _class_names(folder)
    values = names_by_index(named, class_names, folder / _NAMES, first=1)
    names = tuple(class_names) or values
    files = []
    for path, image, size in maps.with_images(folder):
        regions, ignore = [], None
        with problems.noted():
            class_map = colours.read(path) if colours else read_class_map(path, len(values))
            if class_map.shape != size:
                raise MaskError(
                    f"{path}: the class map is {class_map.shape[1]} x {class_map.shape[0]} pixels "
                    f"(width x height) but its image is {size[1]} x {size[0]}; give it the size of "
                    f"its image."
                )
            regions = [
                Region(
                    check_class(values[index - 1], names, str(path)),
                    RunLengthMask.from_array(class_map == index),
                )
                for index in np.unique(class_map)
                if 0 < index < IGNORE
            ]
            unknown = class_map == IGNORE
            ignore = RunLengthMask.from_array(unknown) if unknown.any() else None
        files.append(LabelledFile(image, *size, regions=tuple(regions), ignore=ignore))
    if not files:
        raise maps.nothing()
    return Labels(names, tuple(files), skipped=tuple(problems.sentences))


def write(labels: Labels, destination: str | Path) -> list[Path]:
    """Write a class map for every image, unlabelled ones too, and class_names.txt.

    As `write_labels` says; more than 254 classes, and names that are no line of their own, are a
    UsageError.
    """
    check_lines(labels.class_names)
    folder, targets = Path(destination), labels.with_paths(".png")
    written = [write_text("\n".join(["_background_", *labels.class_names]), folder / _NAMES)]
    for file, target in targets:
        image = class_map_image(file.class_map(labels.class_names))
        written.append(write_png(image, folder / target))
    return written


def _maps_in(source: Path) -> Path:
    """The folder of maps: that below a root of VOC, or else the folder itself."""
    for name in _MAPS:
        if next((source / name).glob(PNG), None) is not None:
            return source / name
    return source


def _class_names(folder: Path) -> tuple[str, ...]:
    """The classes from index 1 on, as class_names.txt has them; none without it."""
    for place in (folder, folder.parent):
        if (place / _NAMES).is_file():
            lines = read_names(place / _NAMES)
            lines = lines[1:] if lines[:1] == ["__ignore__"] else lines  # labelme's index -1
            return tuple(lines[1:] if lines and _is_background(lines[0]) else lines)
    return ()


def _is_background(name: str) -> bool:
    return "".join(c for c in name.casefold() if c.isalnum()) in _BACKGROUND


@dataclass(frozen=True)
class _ColourMap:
    """What CVAT's labelmap.txt says: the classes, and the index (0: background) by line and colour.

    A colour is a number, 0xRRGGBB.
    """

    class_names: tuple[str, ...]
    by_line: tuple[int, ...]
    by_colour: dict[int, int]

    @classmethod
    def beside(cls, folder: Path) -> _ColourMap | None:
        """Reads the file beside or above the maps, if it is there (UsageError if damaged)."""
        places = (folder / _COLOURS, folder.parent / _COLOURS)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            return None
        names: list[str] = []
        by_line: list[int] = []
        by_colour: dict[int, int] = {}
        for line in read_lines(path):
            if line.startswith("#"):
                continue
            name, _, rest = line.partition(":")
            rgb = rest.partition(":")[0].split(",")
            if len(rgb) != 3 or not all(n.strip().isdecimal() and int(n) < 256 for n in rgb):
                raise UsageError(
                    f"{path}: 'name:red,green,blue::' was expected, not {line[:40]!r}."
                )
            if not _is_background(name):
                names.append(name.strip())
            by_line.append(0 if _is_background(name) else len(names))
            by_colour[int.from_bytes(map(int, rgb), "big")] = by_line[-1]
        if len(by_colour) < len(by_line):
            raise UsageError(
                f"{path}: two classes have one colour; give each its own and export anew."
            )
        return cls(tuple(names), tuple(by_line), {_VOID: IGNORE, 0: 0} | by_colour)

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Read one map as `read_class_map` does; gray ones hold the number of the line."""
        image = decode(path, MAX_PIXELS)
        if image.mode == "L":
            lines = np.asarray(image)
            check_values(lines, len(self.by_line) - 1, str(path))
            table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
            table[: len(self.by_line)] = self.by_line
            return np.asarray(table[lines])
        rgb = np.asarray(image.convert("RGB"), dtype=np.int64)
        found, where = np.unique(rgb @ [1 << 16, 1 << 8, 1], return_inverse=True)
        unknown = [f"#{number:06x}" for number in found.tolist() if number not in self.by_colour]
        if unknown:
            raise MaskError(
                f"{path}: the class map holds colours that are not in {_COLOURS}, such as "
                f"{', '.join(unknown[:3])}; export it again, with lossless compression."
            )
        values = np.array([self.by_colour[number] for number in found.tolist()], dtype=np.uint8)
        return np.asarray(values[where].reshape(rgb.shape[:2]))


def read_class_map(path: Path, classes: int) -> npt.NDArray[np.uint8]:
    """Read one class map, uint8 (H, W): an image of one channel or with a palette.

    Raises:
        ImageError: The file is missing or damaged.
        MaskError: It has colours, or values that are not 0 to ``classes`` or 255.
    """
    image = decode(path, MAX_PIXELS)
    if image.mode not in {"P", "L"}:
        raise MaskError(
            f"{path}: a class map has a palette or is gray with 8 bits, and this image is "
            f"{image.mode}; convert its colours to class indices."
        )
    class_map = np.asarray(image, dtype=np.uint8)
    check_values(class_map, classes, str(path))
    return class_map


def check_values(class_map: npt.NDArray[np.uint8], classes: int, name: str) -> None:
    """Refuse values that are neither background, a class nor 255 (MaskError)."""
    present = np.flatnonzero(np.bincount(class_map.ravel(), minlength=IGNORE + 1))
    unknown = [int(value) for value in present if classes < value < IGNORE]
    if unknown:
        raise MaskError(
            f"{name}: the mask holds the unknown values {', '.join(map(str, unknown[:12]))}; known "
            f"are 0 (background), 1 to {classes} (classes) and {IGNORE} (ignore)."
        )
