"""YOLO segmentation text: ``labels/NAME.txt`` with one polygon per line, and ``data.yaml``.

A line is ``class x y x y ...``, the class's index from 0 and corners divided by the image's width
and height; read are also ``class x y width height``, a box about its centre, and either with a
confidence from 0 to 1 at the end, which is ignored. Which it is the count of numbers alone tells:
after the class, 5 are a box and a confidence, 7 or any more odd ones a polygon and a confidence,
which may also be a polygon that lost its last number. Each region becomes one line: holes and
separate parts are joined by slits of no width, so that filled by COCO's rule every pixel comes
back; Ultralytics, which draws polygons with their border, sees them one pixel larger. An image
without label has an empty file; train.txt and val.txt list the images of the splits. Lost on the
way: pixels to ignore, scores, and crowds, which are left out, since YOLO would take one for an
object.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

import yaml

from piclip.errors import MaskError, UsageError
from piclip.formats.image_files import PNG, LabelFiles
from piclip.formats.label_files import (
    Boxes,
    Problems,
    box_without_mask,
    read_names,
    read_text,
    readable,
    write_text,
)
from piclip.formats.labels import LabelledFile, Labels, Region, check_class, names_by_index
from piclip.formats.polygons import corners_from, joined, outlines, rectangle
from piclip.formats.run_length import RunLengthMask
from piclip.io.documents import read_yaml

_YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_YAML, _YAMLS, _CLASSES = "data.yaml", ("data.yaml", "dataset.yaml"), "classes.txt"
_OTHER_TEXTS = re.compile(r"(readme|license|notes|train|val|valid|test)\b.*", re.IGNORECASE)
_LOOKED_AT = 20  # texts of a folder; some are empty
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def recognise(source: Path) -> bool:
    """Is this YAML, or a folder with a data.yaml or with text labels?"""
    if source.is_file():
        return source.suffix.lower() in _YAML_SUFFIXES
    if any((source / part).exists() for part in _YAMLS) or any(
        next(source.glob(pattern), None) for pattern in ("labels/**/*.txt", "*/labels/**/*.txt")
    ):
        return True
    if (source / _CLASSES).exists() and not next(source.glob(PNG), None):
        return True
    return any(map(_has_labels, islice(_label_files(source), _LOOKED_AT)))


def read(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
) -> Labels:
    """Read YOLO segmentation labels, as `read_labels` says.

    The source is the folder of text files, or one with folders ``labels`` in it, or the YAML in it.
    ``images`` is needed, and ``class_names`` in the order of their indices if no data.yaml,
    dataset.yaml or classes.txt is in the folder or the two above it. An empty file is an image
    without label.
    """
    given = Path(source)
    folder = given.parent if given.suffix.lower() in _YAML_SUFFIXES else given
    texts = folder / "labels" if (folder / "labels").is_dir() else folder
    problems = Problems()
    labels = LabelFiles(texts, _label_files(texts), images, "YOLO labels", problems)
    named = _class_names(folder) if folder == given else _names_in_yaml(given)
    values = names_by_index(named, class_names, folder / _CLASSES, first=0)
    names, files = tuple(class_names) or values, []
    for path, image, size in labels.with_images(texts):
        regions, lines = [], list[str]()
        with problems.noted(UsageError):
            lines = read_text(path).splitlines()
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}: line {number}"
                with problems.noted():
                    region = _region(line.split(), values, size, where, boxes)
                    check_class(region.class_name, names, where)
                    regions.append(region)
        files.append(LabelledFile(image, *size, regions=tuple(regions)))
    if not files:
        raise labels.nothing()
    return Labels(names, tuple(files), skipped=tuple(problems.sentences))


def write(labels: Labels, destination: str | Path, *, simplify: float = 0.0) -> list[Path]:
    """Write a text file per image, unlabelled too, and what `write_lists` writes.

    As `write_labels` says.
    """
    labels.with_paths(".txt")  # refuses two images of one label
    texts = [
        write_text_of(file, labels.class_names, destination, simplify) for file in labels.images
    ]
    paths = [file.path for file in labels.images]
    return [*write_lists(labels.class_names, paths, destination), *texts]


def write_text_of(
    file: LabelledFile, class_names: Sequence[str], destination: str | Path, simplify: float = 0.0
) -> Path:
    """Write the label of one image into a folder (OutputError if that fails)."""
    path = Path(destination, "labels", PurePosixPath(file.path).with_suffix(".txt"))
    return write_text(to_text(file, class_names, simplify), path)


def write_lists(
    class_names: Sequence[str], paths: Sequence[str], destination: str | Path
) -> list[Path]:
    """Write data.yaml, and the images of each split, see `splits`, in train.txt and val.txt.

    The images are listed below ``images``, where Ultralytics finds the labels of each: put the
    folder of images there, or a link to it.
    """
    folder = Path(destination)
    listed = {split: found for split, found in splits(paths).items() if found}
    content = {split: f"{split}.txt" for split in listed} | {"names": dict(enumerate(class_names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return [
        write_text(text.rstrip("\n"), folder / _YAML),
        *(
            write_text("\n".join(f"./images/{path}" for path in found), folder / f"{split}.txt")
            for split, found in listed.items()
        ),
    ]


def splits(paths: Sequence[str]) -> dict[str, list[str]]:
    """Share images among "train", "val" and "test".

    An image in a folder of such a name is of that split, and every other one of "train". Where no
    image is of "val", a fifth of "train" (one at least) becomes it, the same ones however the
    images are sorted; a single image is in both, since YOLO trains with both alone.
    """
    found: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for path in paths:
        folders = (_SPLITS.get(part.lower()) for part in PurePosixPath(path).parts[:-1])
        found[next(filter(None, folders), "train")].append(path)
    train = found["train"]
    if train and not found["val"]:
        order = sorted(train, key=_digest)
        chosen = set(order[: max(1, len(train) // 5)])
        found["val"] = [path for path in train if path in chosen]
        found["train"] = [path for path in train if path not in chosen] or train
    return found


def _digest(path: str) -> bytes:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()


def to_text(file: LabelledFile, class_names: Sequence[str], simplify: float = 0.0) -> str:
    """Make the lines of one image's label; see `outlines` for ``simplify``.

    Crowds and regions without a pixel have none.
    """
    lines = []
    for region in file.regions:
        if region.crowd or not region.mask.area:
            continue
        parts = [joined(loops) for loops in outlines(region.mask.to_array(), simplify)]
        # Seven digits place a corner to a hundredth of a pixel in the largest images.
        numbers = (joined(parts) / [file.width, file.height]).ravel()
        corners = " ".join(f"{number:.7g}" for number in numbers)
        lines.append(f"{class_names.index(region.class_name)} {corners}")
    return "\n".join(lines)


def _region(
    words: list[str], class_names: Sequence[str], size: tuple[int, int], where: str, boxes: Boxes
) -> Region:
    try:
        index, *numbers = map(float, words)  # Ultralytics, too, takes 0.0 for a class's index
        if not index.is_integer():
            raise ValueError
    except ValueError as error:
        raise MaskError(
            f"{where}: 'class x y x y ...' in numbers was expected, not {' '.join(words)[:40]!r}."
        ) from error
    if not 0 <= index < len(class_names):
        raise MaskError(
            f"{where}: the class index {index:g} is unknown; there are {len(class_names)} classes, "
            f"the first has the index 0."
        )
    if len(numbers) > 4 and len(numbers) % 2 and 0 <= numbers[-1] <= 1:
        numbers.pop()  # a confidence
    corners = corners_from(numbers, where) * [size[1], size[0]]
    if len(corners) == 2:
        if boxes == "skip":
            raise box_without_mask(where)
        centre, sides = corners
        corners = rectangle(centre - sides / 2, centre + sides / 2)
    return Region(class_names[int(index)], RunLengthMask.from_polygons([corners], size, where))


def _class_names(folder: Path) -> tuple[str, ...]:
    """The classes from index 0 on, from the nearest file that has them; none without one."""
    for place in (folder, *folder.absolute().parents[:2]):
        for name in _YAMLS:
            if (place / name).is_file():
                return _names_in_yaml(place / name)
        if (place / _CLASSES).is_file():
            return tuple(read_names(place / _CLASSES))
    return ()


def _label_files(folder: Path) -> list[Path]:
    """The text files that are labels: all but lists, and what a download says about itself.

    Those are told by their names, unless they hold labels: an image may be called test-1.jpg.
    """
    paths = [path for path in folder.rglob("*.txt") if path.name != _CLASSES]
    named = [path for path in paths if "labels" in path.relative_to(folder).parts]
    return named or [
        path for path in paths if not _OTHER_TEXTS.fullmatch(path.name) or _has_labels(path)
    ]


def _has_labels(path: Path) -> bool:
    """Whether the text begins with a class's index and the corners of a box at least."""
    try:
        words = read_text(path).split(maxsplit=5)[:5]
        return words[0].isdecimal() and len([float(word) for word in words]) == 5
    except (UsageError, ValueError, IndexError):
        return False


def _names_in_yaml(path: Path) -> tuple[str, ...]:
    with readable(path):
        content = read_yaml(path)
    if isinstance(content, dict) and "kpt_shape" in content:
        raise UsageError(
            f"{path}: these are labels of poses ('kpt_shape'), whose points are no outlines; "
            f"export masks."
        )
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        by_index = {str(index): name for index, name in names.items()}
        complete = by_index.keys() == {str(index) for index in range(len(names))}
        names = [by_index[str(index)] for index in range(len(names))] if complete else None
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path}: 'names' must list the classes in the order of their indices.")
    return tuple(str(name) for name in names)
