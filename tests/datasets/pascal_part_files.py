"""PASCAL-Part in the layout of Matcher: three small images in each split show each object."""

import json

import numpy as np
from PIL import Image

from piclip.formats.run_length import RunLengthMask

HEIGHT, WIDTH = 20, 30
OBJECTS = {
    "animals": {"dog": ("HEAD", "TORSO"), "bird": ("FACE",)},
    "indoor": {"tvmonitor": ("SCREEN",)},
    "person": {"person": ("HEAD", "LOWER_ARM")},
    "vehicles": {"aeroplane": ("TAIL", "WING")},
}


def coded(box):
    """A box (top, bottom, left, right) as COCO's compressed run lengths."""
    top, bottom, left, right = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:bottom, left:right] = True
    text = RunLengthMask.from_array(mask).counts.decode("ascii")
    return {"size": [HEIGHT, WIDTH], "counts": text}


def thing(name, box, **parts):
    """An object with its box (xmin, ymin, xmax, ymax) and the boxes of each part."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return {
        "name": name,
        "bndbox": dict(sides),
        "parts": [
            {"name": part, "mask": [coded(box) for box in boxes]} for part, boxes in parts.items()
        ],
    }


def make_pascal_part(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    for name in ("JPEGImages", "Annotations_Part_json_merged_part_classes"):
        (folder / name).mkdir(parents=True)
    lists = {}
    for fold, objects in OBJECTS.items():
        for name, parts in objects.items():
            numbers = {
                split: [f"{name}_{split}{n}" for n in range(3)] for split in ("train", "val")
            }
            for part in parts:
                where = lists.setdefault(fold, {"object": {}})["object"]
                where.setdefault(name, {"part": {}})["part"][part] = dict(numbers)
            for number in (*numbers["train"], *numbers["val"]):
                boxes = {part: [(2 + i, 9, 5, 9 + i)] for i, part in enumerate(parts)}
                annotate(tmp_path, number, thing(name, (3, 1, 13, 11), **boxes))
    lists["animals"]["object"]["cat"] = {"part": {"HEAD": {"train": ["c"], "val": []}}}
    (folder / "all_obj_part_to_image.json").write_text(json.dumps(lists))
    return tmp_path


def annotate(root, number, *objects):
    folder = root / "VOCdevkit" / "VOC2010"
    file = folder / "Annotations_Part_json_merged_part_classes" / f"{number}.json"
    file.write_text(json.dumps({"object": objects}))
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "JPEGImages" / f"{number}.jpg")
