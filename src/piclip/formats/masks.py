"""Binary masks: one picture per image and class, 255 where the object is.

With several classes the folder holds ``CLASS/NAME.png`` for each image ``NAME.*``; with one class
named by the caller it may hold ``NAME.png`` itself. Classes may overlap. Lost on the way: which
pixels belong to which object (one region per class and image), crowds, pixels to ignore, scores,
and that an image exists that has no label. A mask without object pixels says that the class is not
in the image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from piclip.errors import ImageError, UsageError
from piclip.formats.image_files import PNG, LabelFiles
from piclip.formats.label_files import Problems
from piclip.formats.labels import LabelledFile, Labels, Region, check_class
from piclip.formats.run_length import RunLengthMask
from piclip.formats.voc import is_class_map
from piclip.io.decoding import decode
from piclip.io.images import MAX_PIXELS, SUFFIXES, read_mask
from piclip.io.outputs import write_png

_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp"})
_NEVER_IN_NAMES = frozenset('/\\:*?"<>|') | frozenset(map(chr, range(32)))


def recognise(source: Path) -> bool:
    """Is this a folder of PNG files or of black and white pictures, or of folders of them?"""
    if not source.is_dir():
        return False
    first = next(iter(_masks(source, None)), None)
    png = next(source.rglob(PNG), None)
    return png is not None or (first is not None and _is_black_and_white(first))


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read a folder of binary masks, as `read_labels` says: one region per mask, none if it is 0.

    What marks the object is told as in ``read_mask``. ``images`` is needed, and ``class_names``
    gives the one class of masks that lie in the folder itself.
    """
    folder = Path(source)
    problems = Problems()
    paths = _masks(folder, images)
    masks = LabelFiles(folder, paths, images, "masks", problems)
    regions: dict[str, list[Region]] = defaultdict(list)
    absent: dict[str, list[str]] = defaultdict(list)
    sizes, maps = {}, list[Path]()
    folders = _class_folders(folder, paths, class_names)
    for name, class_folder in folders:
        for path, image, size in masks.with_images(class_folder):
            sizes[image] = size
            with problems.noted():
                mask = read_mask(path, size=size, allow_empty=True)
                maps += [path] if is_class_map(path) else []
                if mask.any():
                    regions[image].append(Region(name, RunLengthMask.from_array(mask)))
                else:
                    absent[image].append(name)
    if not sizes:
        raise masks.nothing()
    files = [
        LabelledFile(image, *size, regions=tuple(regions[image]), absent=tuple(absent[image]))
        for image, size in sorted(sizes.items())
    ]
    if lossy := [path for path in paths if path.suffix.lower() in _LOSSY]:
        problems.notes.append(
            f"{lossy[0]}: {len(lossy)} masks such as this are compressed with loss; what is "
            f"lighter than the middle (values from 128 on) counts as the object."
        )
    if maps:
        problems.notes.append(
            f"{maps[0]}: {len(maps)} masks such as this hold several small values or colours, as "
            f"maps of classes do; all but 0 counts as one class. --format voc takes each for a "
            f"class, colours with a labelmap.txt."
        )
    return Labels(
        tuple(class_names) or tuple(name for name, _ in folders),
        tuple(files),
        skipped=tuple(problems.sentences),
        notes=tuple(problems.notes),
    )


def write(labels: Labels, destination: str | Path) -> list[Path]:
    """Write ``CLASS/NAME.png`` for every class that an image is labelled with or without.

    As `write_labels` says.
    """
    check_folders(labels.class_names)
    return [
        write_png(file.mask_of(name), Path(destination) / name / target)
        for file, target in labels.with_paths(".png")
        for name in (*file.class_names, *file.absent)
    ]


def check_folders(class_names: Sequence[str]) -> None:
    """Refuse names that cannot be those of folders, of which no two are one (UsageError)."""
    for name in class_names:
        # Windows takes no name that ends so, and gives one folder to names that differ in case.
        if name[-1] in ". " or name[0] == " " or set(name) & _NEVER_IN_NAMES:
            raise UsageError(
                f"The class {name!r} cannot be the name of a folder of masks; rename it or write "
                f"another format, such as coco."
            )
    by_folder = {name.casefold(): name for name in class_names}
    for name in class_names:
        if (other := by_folder[name.casefold()]) != name:
            raise UsageError(
                f"The classes {name!r} and {other!r} differ in case only and would share a folder "
                f"on many computers; rename one or write another format, such as coco."
            )


def _masks(folder: Path, images: str | Path | None) -> list[Path]:
    """The pictures in a folder and its subfolders that are masks, not the labelled images."""
    photos = None if images is None else Path(images).absolute()
    if photos == folder.absolute():
        return sorted(folder.rglob(PNG))
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if photos is None or not photos.is_relative_to(folder.absolute()):
        return sorted(pictures)
    return sorted(path for path in pictures if not path.absolute().is_relative_to(photos))


def _is_black_and_white(path: Path) -> bool:
    try:
        gray = np.asarray(decode(path, MAX_PIXELS).convert("L"))
    except ImageError:
        return False
    return bool(((gray < 64) | (gray >= 192)).mean() > 0.99)


def _class_folders(
    folder: Path, masks: Sequence[Path], class_names: Sequence[str]
) -> list[tuple[str, Path]]:
    if any(path.parent == folder for path in masks):
        if len(class_names) != 1:
            raise UsageError(
                f"{folder}: say which one class these masks show, or sort them into one subfolder "
                f"per class."
            )
        return [(class_names[0], folder)]
    folders = sorted({folder / path.relative_to(folder).parts[0] for path in masks})
    if class_names:
        for entry in folders:
            check_class(entry.name, class_names, str(folder))
    return [(entry.name, entry) for entry in folders]
