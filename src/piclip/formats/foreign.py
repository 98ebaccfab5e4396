"""Files of labelling tools in none of our formats: what each is, and what to export instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from piclip.formats.label_files import json_if_any, load_xml

_ZIP = b"PK\x03\x04"


def what_it_is(path: Path) -> str | None:
    """What a file is and what to export instead, to be said after its name; None if unknown."""
    if path.is_dir():
        for pattern in ("*.xml", "*.json"):
            first = next(iter(sorted(path.rglob(pattern))), None)
            if first is not None and (found := _of_file(first) or _of_one_file(first)):
                return f"{first.relative_to(path)} in it is {found}"
        return None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(4) == _ZIP:
            return "this is a ZIP archive; unpack it, and give the file or folder of labels in it"
    found = _of_file(path)
    return None if found is None else f"this is {found}"


def _of_file(path: Path) -> str | None:
    if path.suffix.lower() == ".xml":
        root = load_xml(path)
        if root.tag == "annotations" and root.find("track") is not None:
            return "CVAT for video; export as CVAT for images 1.1 or as COCO 1.0"
        if root.tag == "annotation":
            return "a Pascal VOC file of boxes, without masks; export segmentation masks or COCO"
    content = json_if_any(path)
    if isinstance(content, list):
        return _of_list(content)
    return _of_object(content) if isinstance(content, dict) else None


def _of_one_file(path: Path) -> str | None:
    """Formats of ours that are one file and no folder."""
    content = json_if_any(path)
    if isinstance(content, dict) and {"images", "categories"} <= content.keys():
        return "a COCO file; give that file itself"
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "data" in first:
        return "an export of Label Studio; give that file itself"
    return None


def _of_list(items: list[Any]) -> str | None:
    objects = [item for item in items if isinstance(item, dict)]
    if not objects or len(objects) < len(items) or any("data" in item for item in objects):
        return None
    if all({"image_id", "category_id"} <= item.keys() for item in objects):
        return (
            "a list of COCO results, which names neither images nor classes; put it as "
            "'annotations' beside 'images' and 'categories' of the instances file it belongs to"
        )
    if all({"annotation_id", "annotator", "lead_time"} & item.keys() for item in objects):
        return "Label Studio's JSON-MIN, which leaves out the tasks; export as JSON"
    return None


def _of_object(content: dict[str, Any]) -> str | None:
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, Mapping):
        if "caption" in first:
            return "COCO's captions, without masks; give the file instances_*.json"
        if "segments_info" in first:
            return "COCO's panoptic annotations; give the file instances_*.json"
    if "_via_img_metadata" in content or (
        content and all(isinstance(v, dict) and "regions" in v for v in content.values())
    ):
        return "a project of the VGG Image Annotator; export its annotations as COCO"
    return None
