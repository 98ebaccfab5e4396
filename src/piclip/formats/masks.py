"""Binary masks: one PNG per image and class, 255 where the object is.

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

from piclip.errors import UsageError
from piclip.formats.image_files import LabelFiles
from piclip.formats.labels import LabelledFile, Labels, Region, check_class
from piclip.formats.problems import Boxes, Problems
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import read_mask
from piclip.io.outputs import write_png


def recognise(source: Path) -> bool:
    """Is this a folder of PNG files, or of folders of them?"""
    return source.is_dir() and next(source.rglob("*.png"), None) is not None


def read(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
) -> Labels:
    """Read a folder of binary masks, as `read_labels` says: one region per mask, none if it is 0.

    What marks the object is told as in ``read_mask``. ``images`` is needed, and ``class_names``
    gives the one class of masks that lie in the folder itself.
    """
    folder = Path(source)
    problems = Problems()
    masks = LabelFiles(folder, folder.rglob("*.png"), images, "masks", problems)
    regions: dict[str, list[Region]] = defaultdict(list)
    absent: dict[str, list[str]] = defaultdict(list)
    sizes = {}
    names = {}
    for name, class_folder in _class_folders(folder, class_names):
        names[name] = class_folder
        for path, image, size in masks.with_images(class_folder):
            sizes[image] = size
            with problems.noted():
                mask = read_mask(path, size=size, allow_empty=True)
                if mask.any():
                    regions[image].append(Region(name, RunLengthMask.from_array(mask)))
                else:
                    absent[image].append(name)
    if not sizes:
        raise UsageError(f"{folder}: there are no masks (.png) here; check the path.")
    files = [
        LabelledFile(image, *size, regions=tuple(regions[image]), absent=tuple(absent[image]))
        for image, size in sorted(sizes.items())
    ]
    return Labels(tuple(class_names) or tuple(names), tuple(files), skipped=problems.all())


def write(labels: Labels, destination: str | Path) -> list[Path]:
    """Write ``CLASS/NAME.png`` for every class that an image is labelled with or without.

    As `write_labels` says.
    A class whose name cannot be a folder's is a UsageError.
    """
    for name in labels.class_names:
        if name in {".", ".."} or set(name) & set('/\\:\0*?"<>|'):
            raise UsageError(
                f"The class {name!r} cannot be the name of a folder of masks; rename it or write "
                f"another format, such as coco."
            )
    return [
        write_png(file.mask_of(name), Path(destination) / name / target)
        for file, target in labels.with_paths(".png")
        for name in (*file.class_names, *file.absent)
    ]


def _class_folders(folder: Path, class_names: Sequence[str]) -> list[tuple[str, Path]]:
    if any(folder.glob("*.png")):
        if len(class_names) != 1:
            raise UsageError(
                f"{folder}: say which one class these masks show, or sort them into one subfolder "
                f"per class."
            )
        return [(class_names[0], folder)]
    folders = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
    if class_names:
        for entry in folders:
            check_class(entry.name, class_names, str(folder))
    return [(entry.name, entry) for entry in folders]
