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
from piclip.formats.label_files import check_lines, read_lines, read_names, write_text
from piclip.formats.labels import LabelledFile, Labels, Region, check_class, names_by_index
from piclip.formats.problems import Boxes, Problems
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import decode, opened
from piclip.io.images import IGNORE, MAX_PIXELS
from piclip.io.outputs import write_png
from piclip.io.overlays import class_map_image

_NAMES, _COLOURS = "class_names.txt", "labelmap.txt"
_MAPS = ("SegmentationClass", "SegmentationClassPNG")
_BACKGROUND = frozenset({"background", "bg"})
_LOOKED_AT = 20
"""Files of a folder; in some of them there may be only one class."""
_SMALL = 32
_VOID = (224, 224, 192)
"""The colour of VOC's index 255."""


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
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
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
    colours = _colour_map(folder)
    named = colours.class_names if colours else _class_names(folder)
    values = names_by_index(named, class_names, folder / _NAMES, first=1)
    names = tuple(class_names) or values
    files = []
    for path, image, size in maps.with_images(folder):
        regions, ignore = [], None
        with problems.noted():
            class_map = colours.read(path) if colours else read_class_map(path, len(values))
            _check_size(class_map, size, path)
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
    """What the colours of a map mean, as CVAT's labelmap.txt says.

    Attributes:
        class_names: Without the background.
        indices: By line of the file, the class's index from 1, 0 for the background.
        colours: By line, red, green and blue.
    """

    class_names: tuple[str, ...]
    indices: tuple[int, ...]
    colours: tuple[tuple[int, int, int], ...]

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Read one map as `read_class_map` does; gray ones hold the number of the line."""
        image = decode(path, MAX_PIXELS)
        if image.mode == "L":
            lines = np.asarray(image)
            check_values(lines, len(self.indices) - 1, str(path))
            table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
            table[: len(self.indices)] = self.indices
            return np.asarray(table[lines])
        rgb = np.asarray(image.convert("RGB"), dtype=np.uint32)
        found, where = np.unique(_number(rgb), return_inverse=True)
        known = {_number(np.array(_VOID)).item(): IGNORE, 0: 0}
        known |= dict(zip(_number(np.array(self.colours)).tolist(), self.indices, strict=True))
        unknown = [f"#{number:06x}" for number in found.tolist() if number not in known]
        if unknown:
            raise MaskError(
                f"{path}: the class map holds colours that are not in {_COLOURS}, such as "
                f"{', '.join(unknown[:3])}; export it again, with lossless compression."
            )
        values = np.array([known[number] for number in found.tolist()], dtype=np.uint8)
        return np.asarray(values[where].reshape(rgb.shape[:2]))


def _number(rgb: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    return np.asarray(rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]))


def _colour_map(folder: Path) -> _ColourMap | None:
    """What labelmap.txt beside or above the maps says, if it is there (UsageError if damaged)."""
    for path in (folder / _COLOURS, folder.parent / _COLOURS):
        if path.is_file():
            break
    else:
        return None
    names, indices, colours = [], [], []
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        numbers = rest.partition(":")[0].split(",")
        if len(numbers) != 3 or not all(n.strip().isdecimal() and int(n) < 256 for n in numbers):
            raise UsageError(f"{path}: 'name:red,green,blue::' was expected, not {line[:40]!r}.")
        if not _is_background(name):
            names.append(name.strip())
        indices.append(0 if _is_background(name) else len(names))
        colours.append((int(numbers[0]), int(numbers[1]), int(numbers[2])))
    if len(set(colours)) < len(colours):
        raise UsageError(f"{path}: two classes have one colour; give each its own and export anew.")
    return _ColourMap(tuple(names), tuple(indices), tuple(colours))


def _check_size(class_map: npt.NDArray[np.uint8], size: tuple[int, int], path: Path) -> None:
    if class_map.shape != size:
        raise MaskError(
            f"{path}: the class map is {class_map.shape[1]} x {class_map.shape[0]} pixels (width x "
            f"height) but its image is {size[1]} x {size[0]}; give it the size of its image."
        )


def read_class_map(path: Path, classes: int) -> npt.NDArray[np.uint8]:
    """Read one class map.

    Args:
        path: An image of one channel or with a palette.
        classes: Number of classes; the values 0 to ``classes`` and 255 are known.

    Returns:
        uint8 (H, W).

    Raises:
        ImageError: The file is missing or damaged.
        MaskError: It has colours instead of class indices, or unknown values.
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
