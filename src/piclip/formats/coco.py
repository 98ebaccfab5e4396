"""COCO JSON (``instances_*.json``): polygons, run lengths and crowds.

In: every annotation with a ``segmentation``; boxes alone where they are asked for. Out: one
annotation per region with its exact area, bounding box and, for predictions, score; images then
have a field "presence", the probability of each class to be in them, which is not read back.
Written as run lengths nothing else is lost but pixels to ignore. Written as polygons, outlines run
along pixel edges and holes are joined by slits, which COCO's own tools turn back into exactly the
same pixels; tools that draw polygons with their border show them one pixel larger. Reading polygons
keeps the pixels they cover, not their corners.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import locate_images, not_there, relative_path
from piclip.formats.label_files import (
    Boxes,
    Problems,
    box_without_mask,
    field,
    image_size_field,
    optional_number,
    readable,
    write_list,
    written,
)
from piclip.formats.labels import LabelledFile, Labels, Region, check_class
from piclip.formats.polygons import Corners, corners_from, joined, outlines, rectangle
from piclip.formats.run_length import RunLengthMask
from piclip.io.documents import json_fields
from piclip.io.outputs import Progress

T = TypeVar("T")
_INFO = {"description": "Written by piclip"}
_REACH = 10  # longer sides of the image that a published outline may lie outside it
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "segmentation", "bbox", "iscrowd", "score"),
    "categories": ("id", "name"),
}
"""What is read, by the lists of a file."""


def recognise(source: Path) -> bool:
    """Is this file COCO JSON?"""
    if source.suffix.lower() != ".json" or not source.is_file():
        return False
    with readable(source):
        fields = json_fields(source)
        return any(name in _FIELDS and isinstance(value, Iterator) for name, value in fields)


def read(
    source: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
) -> Labels:
    """Read a COCO file, as `read_labels` says; ``images`` is not needed.

    Images without annotation are kept, unlabelled.
    """
    path, problems = Path(source), Problems()
    categories, found = load(path, problems=problems)
    categories = _without_unused_twins(categories, found.values())
    if class_names:
        for index, name in enumerate(categories.values()):
            check_class(name, class_names, f"{path}: category {index}")
    files = []
    located = locate_images((image.name for image in found.values()), images)
    for number, image in found.items():
        regions = []
        if image.annotations and image.name not in located:
            problems.note(not_there(image.name, images))
        for item in image.annotations if image.name in located else ():
            where = f"{path}: image {image.path!r}, annotation {item.get('id', '')}"
            name, crowd = categories[item["category_id"]], bool(item.get("iscrowd", 0))
            with problems.noted():
                score = optional_number(item, "score", where)
                regions.append(Region(name, _mask(item, image.size, where, boxes), crowd, score))
        image.annotations.clear()  # the masks take less memory
        place = located.get(image.name, image.path)
        files.append(LabelledFile(place, *image.size, regions=tuple(regions), id=number))
    names = tuple(class_names or categories.values())
    ids = {name: number for number, name in categories.items()}
    all_known = all(name in ids for name in names)
    numbers = tuple(ids[name] for name in names) if all_known else None
    return Labels(names, tuple(files), numbers, tuple(problems.sentences))


def _without_unused_twins(
    categories: dict[int, str], images: Iterable[CocoImage]
) -> dict[int, str]:
    """Categories without those that no annotation has and whose name another has.

    Roboflow writes the name of the project as category 0, which may be that of its only class.
    """
    if len(set(categories.values())) == len(categories):
        return categories
    used = {item["category_id"] for image in images for item in image.annotations}
    taken = {categories[number] for number in used}
    kept: dict[int, str] = {}
    for number, name in categories.items():
        if number in used or name not in taken | set(kept.values()):
            kept[number] = name
    return kept


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image of a COCO file, its masks not yet decoded.

    Of an annotation there is what is read here, with the numbers of an outline in an ``array``.
    """

    name: str  # as the file writes its path
    path: str  # relative to the folder of images, with /
    size: tuple[int, int]  # height, width
    annotations: list[dict[str, Any]]


def load(
    path: Path, progress: Progress | None = None, problems: Problems | None = None
) -> tuple[dict[int, str], dict[int, CocoImage]]:
    """Read the names of the categories and the images of a COCO file, both by id.

    Never more than one annotation is in memory as text; progress counts bytes. With ``problems``,
    images whose size is none or over the limit are left out with their annotations, as are those of
    unknown images and categories.

    Raises:
        UsageError: The file is malformed.
        ImageError: The size of every image, or without ``problems`` of one, is none or too large.
        MaskError: Without ``problems``, an annotation is of an unknown image or category.
    """
    noted: Callable[[], AbstractContextManager[None]]
    noted = nullcontext if problems is None else problems.noted
    with readable(path):
        content = {
            name: [_kept(name, item) for item in value] if isinstance(value, Iterator) else value
            for name, value in json_fields(path, progress)
        }
    # Without any field it was no object.
    items = field(content or None, "categories", list, str(path))
    categories = {
        number: field(item, "name", str, where)
        for number, item, where in _by_id(items, f"{path}: category")
    }
    images: dict[int, CocoImage | None] = {}
    for number, item, where in _by_id(field(content, "images", list, str(path)), f"{path}: image"):
        images[number] = None
        with noted():
            name = field(item, "file_name", str, where)
            path_of_image = relative_path(name)
            size = image_size_field(item, f"{where} ({path_of_image})")
            images[number] = CocoImage(name, path_of_image, size, [])
    if problems is not None and images and not any(images.values()):
        raise ImageError(problems.sentences[0])
    for index, item in enumerate(field(content, "annotations", list, str(path))):
        where = f"{path}: annotation {item.get('id', index) if isinstance(item, dict) else index}"
        with noted():
            image = _known(item, "image_id", images, "image id", where)
            _known(item, "category_id", categories, "category", where)
            if image is not None:
                image.annotations.append(item)
    return categories, {number: image for number, image in images.items() if image is not None}


def _known(item: object, key: str, found: dict[int, T], what: str, where: str) -> T:
    """What the number in a field of an annotation stands for (MaskError if nothing)."""
    number = field(item, key, int, where, MaskError)
    if number not in found:
        raise MaskError(
            f"{where}: the {what} {number} is not among those of the file; export the labels again."
        )
    return found[number]


def _kept(part: str, item: object) -> object:
    """What is read of an item of a list, its outlines packed: plain lists take four times more."""
    if part not in _FIELDS or not isinstance(item, dict):
        return item
    kept = {key: item[key] for key in _FIELDS[part] if key in item}
    if isinstance(shape := kept.get("segmentation"), list):
        kept["segmentation"] = [packed(polygon) for polygon in shape]
    if "bbox" in kept:
        kept["bbox"] = packed(kept["bbox"])
    return kept


def packed(polygon: object) -> object:
    """The numbers of an outline as an array; as it is, what is something else."""
    if not isinstance(polygon, list):
        return polygon
    try:
        return array("d", polygon)
    except (TypeError, OverflowError):
        return polygon


def drawn_mask(item: dict[str, Any], size: tuple[int, int], where: str) -> RunLengthMask:
    """Decode an annotation as pycocotools does, whose outlines may enclose nothing.

    Published annotations have outlines of two points and some that leave the image; labels that
    are to be learned from are read more strictly. A damaged one is a UsageError or MaskError.
    """
    shape = item.get("segmentation")
    if not isinstance(shape, list):
        return _run_lengths(shape, size, where)
    try:
        # pycocotools takes four numbers for a box.
        polygons = [polygon for polygon in shape if len(polygon) >= 6]
        for polygon in polygons:  # it crashes where a corner is no number or lies very far away
            if not (np.abs(np.asarray(polygon, dtype=np.float64)) <= _REACH * max(size)).all():
                raise ValueError("a corner is no number or lies far outside the image")
        return RunLengthMask.filled(polygons, size)
    except Exception as error:  # whatever pycocotools makes of a damaged outline
        raise MaskError(f"{where}: the outline is damaged ({error}).") from error


def write(
    labels: Labels,
    destination: str | Path,
    *,
    polygons: bool = False,
    simplify: float = 0.0,
    files: Callable[[], Iterable[LabelledFile]] | None = None,
) -> list[Path]:
    """Write a COCO file, as `write_labels` says, with few images in memory.

    With ``polygons`` or ``simplify`` it has outlines instead of run lengths, but for crowds, as
    COCO asks for. ``files`` gives the images instead of ``labels.images``, anew on each of two
    calls.
    """
    path = Path(destination)
    with written(path) as out:
        out.write(f'{{"info": {json.dumps(_INFO)}')
        outline = simplify if polygons or simplify else None
        for part, items in _parts(files or (lambda: labels.images), labels, outline).items():
            out.write(f',\n"{part}": ')
            write_list(items, out)
        out.write("}\n")
    return [path]


def to_dict(labels: Labels, *, polygons: bool = False) -> dict[str, Any]:
    """Make the content of a COCO file: "images", "annotations" and "categories"."""
    parts = _parts(lambda: labels.images, labels, 0.0 if polygons else None)
    return {"info": dict(_INFO)} | {part: list(items) for part, items in parts.items()}


def _parts(
    files: Callable[[], Iterable[LabelledFile]], labels: Labels, outline: float | None
) -> dict[str, Iterable[dict[str, Any]]]:
    """The lists of a COCO file, made when they are gone through; see `_segmentation`."""
    numbers = labels.category_ids or range(1, len(labels.class_names) + 1)
    categories = dict(zip(labels.class_names, numbers, strict=True))
    first = max((file.id for file in labels.images if file.id is not None), default=0) + 1

    def numbered() -> Iterator[tuple[int, LabelledFile]]:
        free = count(first)
        for file in files():
            yield next(free) if file.id is None else file.id, file

    def annotations() -> Iterator[dict[str, Any]]:
        found = ((image, region) for image, file in numbered() for region in file.regions)
        # COCOeval takes the id 0 for "no match", so the first is 1.
        for number, (image, region) in enumerate(found, start=1):
            annotation = {
                "id": number,
                "image_id": image,
                "category_id": categories[region.class_name],
                "segmentation": _segmentation(region, outline),
                "area": region.mask.area,
                "bbox": list(region.mask.box),
                "iscrowd": int(region.crowd),
            }
            yield annotation if region.score is None else annotation | {"score": region.score}

    return {
        "images": (_described(number, file) for number, file in numbered()),
        "annotations": annotations(),
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in categories.items()
        ],
    }


def _described(number: int, file: LabelledFile) -> dict[str, Any]:
    size = {"height": file.height, "width": file.width}
    image = {"id": number, "file_name": file.path, **size}
    return image if file.presence is None else image | {"presence": dict(file.presence)}


def _by_id(items: list[Any], what: str) -> Iterator[tuple[int, object, str]]:
    """Each item with its id and its place for errors (UsageError for an id that comes twice)."""
    found = set[int]()
    for index, item in enumerate(items):
        where = f"{what} {index}"
        number = field(item, "id", int, where)
        if number in found:
            raise UsageError(f"{where}: the id {number} is used twice; give each its own.")
        found.add(number)
        yield number, item, where


def _mask(item: dict[str, Any], size: tuple[int, int], where: str, boxes: Boxes) -> RunLengthMask:
    shape = item.get("segmentation")
    if not shape or (isinstance(shape, list) and all(_is_box(part) for part in shape)):
        if boxes == "skip":
            raise box_without_mask(where)
        return RunLengthMask.from_polygons([_box(item, where)], size, where)
    if isinstance(shape, list):
        flat = all(isinstance(number, int | float) for number in shape)
        corners = [corners_from(polygon, where) for polygon in ([shape] if flat else shape)]
        return RunLengthMask.from_polygons(corners, size, where)
    return _run_lengths(shape, size, where).not_empty(where)


def _is_box(part: object) -> bool:
    """Is this x, y, width, height, which pycocotools too takes for a box?"""
    return isinstance(part, list | array) and len(part) == 4 and not isinstance(part[0], list)


def _box(item: dict[str, Any], where: str) -> Corners:
    numbers = corners_from(item.get("bbox"), where)
    if numbers.shape != (2, 2):
        raise MaskError(f"{where}: the box ('bbox') is not x, y, width, height; draw it anew.")
    return rectangle(numbers[0], numbers[0] + numbers[1])


def _run_lengths(shape: object, size: tuple[int, int], where: str) -> RunLengthMask:
    if not isinstance(shape, dict):
        raise MaskError(
            f"{where}: the field 'segmentation' is missing or no mask; export the labels again."
        )
    runs = shape.get("counts")
    if not isinstance(runs, list | str):
        raise MaskError(f"{where}: the run lengths ('counts') are missing.")
    if shape.get("size") != list(size):
        raise MaskError(
            f"{where}: the mask's size is {shape.get('size')} but the image's is {list(size)} "
            f"(height, width); export the labels again."
        )
    return RunLengthMask.from_runs(runs, size, where)


def _segmentation(region: Region, outline: float | None) -> object:
    """Outlines, simplified by as many pixels; run lengths for None and for crowds."""
    if outline is not None and not region.crowd:
        parts = [joined(loops) for loops in outlines(region.mask.to_array(), outline)]
        return [corners.astype(int).ravel().tolist() for corners in parts]
    return {"size": list(region.mask.size), "counts": region.mask.counts.decode("ascii")}
