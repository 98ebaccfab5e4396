"""Class maps as PASCAL VOC has them: one palette PNG per image, 255 = ignore.

The folder holds ``NAME.png`` for each image ``NAME.*`` and ``class_names.txt`` with one class per
line (``__ignore__`` and ``_background_``, as labelme writes them, are skipped). Lost on the way:
which pixels belong to which object (all of a class in an image become one region), pixels under
another region (the smaller one is on top), crowds and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import LabelFiles
from piclip.formats.label_files import read_lines, write_text
from piclip.formats.labels import LabelledFile, Labels, Region
from piclip.formats.problems import Boxes, Problems
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import decode, opened
from piclip.io.images import IGNORE, MAX_PIXELS
from piclip.io.outputs import write_png
from piclip.io.overlays import class_map_image

_NAMES = "class_names.txt"
_NOT_CLASSES = frozenset({"__ignore__", "_background_"})


def recognise(source: Path) -> bool:
    """Is this a folder of palette PNGs?"""
    if not source.is_dir():
        return False
    if (source / _NAMES).is_file():
        return True
    first = next(iter(sorted(source.glob("*.png"))), None)
    if first is None:
        return False
    try:
        with opened(first, MAX_PIXELS) as image:
            return image.mode == "P"
    except ImageError:
        return False


def read(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
) -> Labels:
    """Read a folder of class maps, those in subfolders too, as `read_labels` says.

    ``images`` is needed, and ``class_names`` in the order of their indices where there is no
    class_names.txt. There is one region per class and image.
    """
    folder = Path(source)
    problems = Problems()
    maps = LabelFiles(folder, folder.rglob("*.png"), images, "class maps", problems)
    names = tuple(class_names) or _class_names(folder)
    files = []
    for path, image, size in maps.with_images(folder):
        regions, ignore = [], None
        with problems.noted():
            class_map = read_class_map(path, len(names))
            _check_size(class_map, size, path)
            regions = [
                Region(names[index - 1], RunLengthMask.from_array(class_map == index))
                for index in np.unique(class_map)
                if 0 < index < IGNORE
            ]
            unknown = class_map == IGNORE
            ignore = RunLengthMask.from_array(unknown) if unknown.any() else None
        files.append(LabelledFile(image, *size, regions=tuple(regions), ignore=ignore))
    if not files:
        raise UsageError(f"{folder}: there are no class maps (.png) here; check the path.")
    return Labels(names, tuple(files), skipped=problems.all())


def write(labels: Labels, destination: str | Path) -> list[Path]:
    """Write a class map for every image, unlabelled ones too, and class_names.txt.

    As `write_labels` says; more than 254 classes are a UsageError.
    """
    folder, targets = Path(destination), labels.with_paths(".png")
    written = [write_text("\n".join(["_background_", *labels.class_names]), folder / _NAMES)]
    for file, target in targets:
        image = class_map_image(file.class_map(labels.class_names))
        written.append(write_png(image, folder / target))
    return written


def _class_names(folder: Path) -> tuple[str, ...]:
    if not (folder / _NAMES).is_file():
        raise UsageError(
            f"{folder}: what the class indices mean is not said; put one class name per line, that "
            f"of index 1 first, into {folder / _NAMES}."
        )
    return tuple(line for line in read_lines(folder / _NAMES) if line not in _NOT_CLASSES)


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
