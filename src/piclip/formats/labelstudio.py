"""Label Studio JSON: exported annotations in, predictions out.

In: the "JSON" export: brush strokes, polygons, rectangles and ellipses, turned ones too; points and
lines are no areas and are left out, results about the whole image (choices, text) say nothing. Of
several annotations of a task the ground truth counts, else the one changed last; skipped ones do
not count. One that was submitted with nothing in it says that no class is in the image. Out: tasks
with *predictions* as brush strokes, which Label Studio imports as pre-annotations, and the
labelling interface that they fit (`labelling_interface`). Tasks that were read keep their data, and
predictions the names of the project's brush and image.
Lost on the way: crowds, pixels to ignore, and the order of the classes; polygons become pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from piclip.errors import MaskError, UsageError
from piclip.formats.image_files import ImageFolder, not_there, relative_path
from piclip.formats.label_files import (
    Problems,
    dump_list,
    field,
    image_size_field,
    json_if_any,
    load_json,
)
from piclip.formats.labels import LabelledFile, Labels, Region, check_class, placed
from piclip.formats.polygons import Corners, corners_from, ellipse, rectangle
from piclip.formats.run_length import RunLengthMask
from piclip.io.extras import library
from piclip.io.images import image_size
from piclip.io.overlays import COLOURS

LOCAL_FILES = "/data/local-files/?d="  # how Label Studio addresses files of its local storage

_CONTROL, _OBJECT, _DATA = "tag", "image", "image"
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
_OPAQUE = 128
_SIZE = ("original_height", "original_width")
_REGION = {"rle", "points", "x", "vertices", "imageDataURL"}
"""One of these is in the value of whatever somebody draws on an image."""


def recognise(source: Path) -> bool:
    """Is this a Label Studio export?"""
    tasks = json_if_any(source)
    return isinstance(tasks, list) and all(isinstance(t, dict) and "data" in t for t in tasks)


def read(
    source: str | Path, *, images: str | Path | None = None, class_names: Sequence[str] = ()
) -> Labels:
    """Read a JSON export of Label Studio, as `read_labels` says.

    With ``images``, uploaded files are found under their own names too (Label Studio puts eight
    characters before them), and tasks without annotation are kept, unlabelled, with Label Studio's
    URL.
    """
    path = Path(source)
    tasks = load_tasks(path)
    problems, listed, empty = Problems(), [], set()
    folder = None if images is None else ImageFolder(images)
    for index, task in enumerate(tasks):
        file = from_task(task, f"{path}: task {index}", folder, class_names, problems=problems)
        if file is not None:
            listed.append(file)
            if _annotations(task, "") and not _results(task, ""):  # submitted with nothing in it
                empty.add(file.source)
    tags = _tags(tasks)
    found = dict.fromkeys(name for file in listed for name in file.class_names)
    names = tuple(class_names or found)
    files = (
        replace(
            file,
            extra={**(file.extra or {}), **tags} or None,
            absent=names if file.source in empty else (),
        )
        for file in placed(listed, images, problems)
    )
    return Labels(names, tuple(files), skipped=tuple(problems.sentences))


def load_tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a JSON export (UsageError if it is none)."""
    tasks = load_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise UsageError(
            f"{path}: this is not a list of tasks; export from Label Studio as JSON, not JSON-MIN."
        )
    return tasks


def write(
    labels: Labels,
    destination: str | Path,
    *,
    url: str | None = None,
) -> list[Path]:
    """Write tasks with predictions that Label Studio imports, as `write_labels` says.

    Images without a region become tasks without a prediction. Those that it does not know yet are
    addressed (see `image_url`) with ``url`` before their path, by default beside those that it
    knows (`address_of`).
    """
    start = address_of(labels.images) if url is None else url
    tasks = (to_task(file, start) for file in labels.images)
    return [dump_list(tasks, Path(destination))]


def labelling_interface(class_names: Sequence[str]) -> str:
    """The labelling interface (XML) to which the predictions belong, for the project's settings."""
    lines = [
        f"    <Label value={quoteattr(name)} "
        f'background="#{"".join(f"{c:02x}" for c in COLOURS[k % len(COLOURS)])}"/>'
        for k, name in enumerate(class_names)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{_OBJECT}" value="${_DATA}" zoom="true"/>',
            f'  <BrushLabels name="{_CONTROL}" toName="{_OBJECT}">',
            *lines,
            "  </BrushLabels>",
            "</View>",
        ]
    )


def to_task(file: LabelledFile, url: str = LOCAL_FILES) -> dict[str, Any]:
    """One image as a task, with its regions as a prediction; arguments and errors as of `write`."""
    source = file.source or image_url(file.path, url)
    task: dict[str, Any] = {"data": (file.extra or {}).get("data", {_DATA: source})}
    if file.id is not None:
        task["id"] = file.id
    if file.regions:
        task["predictions"] = [to_prediction(file)]
    return task


def address_of(files: Iterable[LabelledFile]) -> str:
    """How Label Studio addresses the folder of its local storage in which paths begin.

    That is always one inside of the folder that it serves. The first file in that storage tells it;
    without one it is `LOCAL_FILES`.
    """
    for file in files:
        if LOCAL_FILES in (file.source or ""):
            start = str(file.source).removesuffix(quote(file.path))
            if start.endswith(("=", "/")):
                return start
    return LOCAL_FILES


def image_url(path: str, url: str = LOCAL_FILES) -> str:
    """How Label Studio addresses an image by its path (UsageError if that is no UTF-8)."""
    try:
        return url + quote(path)
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{path!r}: Label Studio has no address for a file whose name is not in UTF-8; rename "
            f"the file, or write another format, such as coco."
        ) from error


def to_prediction(file: LabelledFile) -> dict[str, Any]:
    """One image's regions as a prediction in Label Studio's form."""
    brush = library("label_studio_sdk.converter.brush")
    results, extra = [], file.extra or {}
    for index, region in enumerate(file.regions):
        alpha = region.mask.to_array() * np.uint8(255)
        value = {"format": "rle", "rle": brush.mask2rle(alpha), "brushlabels": [region.class_name]}
        names = {
            "id": f"region{index}",
            "type": "brushlabels",
            "from_name": extra.get("from_name", _CONTROL),
            "to_name": extra.get("to_name", _OBJECT),
        }
        results.append(names | to_result(file, region, value))
    prediction: dict[str, Any] = {"model_version": "piclip", "result": results}
    scores = [region.score for region in file.regions if region.score is not None]
    return prediction | ({"score": fmean(scores)} if scores else {})


def to_result(file: LabelledFile, region: Region, value: dict[str, Any]) -> dict[str, Any]:
    """A region of a prediction, but for its names; Label Studio shows the "meta" beside it."""
    result: dict[str, Any] = {
        "original_width": file.width,
        "original_height": file.height,
        "image_rotation": 0,
        "value": value,
    }
    if region.score is not None:
        result["score"] = region.score
    if file.presence is not None:
        result["meta"] = {"text": [f"presence {file.presence[region.class_name]:.4f}"]}
    return result


def from_task(
    task: dict[str, Any],
    where: str,
    folder: ImageFolder | None = None,
    class_names: Sequence[str] = (),
    *,
    problems: Problems,
) -> LabelledFile | None:
    """Reads one task of an export: the ground truth, or else its latest annotation.

    The ``folder`` of images tells the size of one without labels; where that cannot be known, the
    result is None. Any class may occur if ``class_names`` is empty.

    Raises:
        UsageError: The task is malformed or has an unknown class.
    """
    data = field(task, "data", dict, where)
    source = _image_url(data, where)
    path = _image_path(source, folder, where)
    results = _results(task, where)
    regions: list[Region] = []
    size: tuple[int, int] | None = None
    for index, result in enumerate(results):
        item = f"{where} ({path}): region {result.get('id', index)}"
        with problems.noted():
            if names := _labels_of(result, class_names, item):
                size = image_size_field(result, item, *_SIZE, error=MaskError)
                mask = _mask(result["value"], size, item)
                regions += [Region(name, mask) for name in names]
    if size is None and folder is not None:
        found = folder.find(path)
        if found is None:
            problems.note(not_there(path, folder.root))
        else:
            with problems.noted():
                size = image_size(folder.root / found)
    if size is None:
        return None
    number = task.get("id")
    task_id = number if isinstance(number, int) else None
    extra = {"data": data} if data.keys() - {_DATA} else None
    return LabelledFile(path, *size, regions=tuple(regions), id=task_id, source=source, extra=extra)


def _tags(tasks: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The names of the project's brush and of what it paints on, where the labels tell them.

    Labels of another kind tell only what they lie on; the brush then has the name that
    `labelling_interface` gives it.
    """
    found: dict[str, str] = {}
    for task in tasks:
        for result in _results(task, ""):
            control, painted = result.get("from_name"), result.get("to_name")
            if not isinstance(control, str) or not isinstance(painted, str):
                continue
            if result.get("type") == "brushlabels":
                return {"from_name": control, "to_name": painted}
            if str(result.get("type")).endswith("labels"):
                found.setdefault("to_name", painted)
    return found


def _image_url(data: dict[str, Any], where: str) -> str:
    """The image in a task's data: under "image", or else its only text."""
    texts = [value for value in data.values() if isinstance(value, str)]
    value = data.get(_DATA, texts[0] if len(texts) == 1 else None)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: which image this is is not said in data.{_DATA}.")
    return value


def _image_path(url: str, folder: ImageFolder | None, where: str) -> str:
    """The path that a URL of Label Studio stands for, as it lies in the folder of images."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{where}: {url!r} is no address of an image ({error}).") from error
    local = parse_qs(parts.query).get("d")
    if local:
        return relative_path(local[0].lstrip("/"))
    path = relative_path(unquote(parts.path).lstrip("/"))
    name = path.rsplit("/", 1)[-1]
    own_name = _UPLOAD_PREFIX.sub("", name)
    if not path.startswith("data/upload/"):
        return path
    exported = folder is not None and folder.find(name) is not None
    return name if exported else own_name


def _annotations(task: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Those that were not skipped."""
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise UsageError(f"{where}: the field 'annotations' is no list of annotations.")
    return [a for a in annotations if not a.get("was_cancelled")]


def _results(task: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The results of the annotation that counts."""
    valid = _annotations(task, where)
    if not valid:
        return []
    best = max(valid, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or "")))
    results = field(best, "result", list, where)
    if not all(isinstance(result, dict) for result in results):
        raise UsageError(f"{where}: a result of its annotation is no object.")
    return results


def _labels_of(result: dict[str, Any], class_names: Sequence[str], where: str) -> list[str]:
    """The classes of a result that is a region of an image; none for other results."""
    kind, value = str(result.get("type", "")), result.get("value")
    # Shapes with separate labels come twice: bare, and of the type "labels".
    if not kind.endswith("labels") or not isinstance(value, dict) or not _REGION & set(value):
        return []
    names = value.get(kind)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise MaskError(f"{where}: the region has no label; choose one or delete the region.")
    return [check_class(name, class_names, where) if class_names else name for name in names]


def _mask(value: dict[str, Any], size: tuple[int, int], where: str) -> RunLengthMask:
    if "rle" not in value:
        return RunLengthMask.from_polygons([_outline(value, size, where)], size, where)
    height, width = size
    brush = library("label_studio_sdk.converter.brush")
    try:
        # Of a number this would make as many bytes, and the first four bytes say how many values
        # follow; nobody may make us allocate at will.
        packed = bytes(field(value, "rle", list, where))
        if int.from_bytes(packed[:4], "big") != height * width * 4:
            raise ValueError("another number of values than the image has")
        alpha = brush.decode_rle(packed).reshape(height, width, 4)[:, :, 3]
    except (UsageError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise MaskError(
            f"{where}: the brush stroke is damaged or belongs to an image of another size than "
            f"{width} x {height} pixels (width x height); export the labels again."
        ) from error
    return RunLengthMask.from_array(alpha >= _OPAQUE).not_empty(where)


def _outline(value: dict[str, Any], size: tuple[int, int], where: str) -> Corners:
    """The outline of a polygon, rectangle or ellipse, whose numbers are per cent of the sides."""
    pixels = np.array(size[::-1]) / 100
    if "points" in value:
        return corners_from(value["points"], where) * pixels
    names = (
        ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    )
    if not set(names) <= set(value):
        raise MaskError(
            f"{where}: a point or a line is no area and cannot be used as a mask; draw a brush "
            f"stroke, a polygon, a rectangle or an ellipse."
        )
    at, sides = corners_from([value[name] for name in names], where) * pixels
    [[degrees, _]] = corners_from([value.get("rotation") or 0, 0], where)
    if "radiusX" in value:
        return ellipse(at, sides, degrees)
    return rectangle(at, at + sides, degrees)  # about the corner that is top left before
