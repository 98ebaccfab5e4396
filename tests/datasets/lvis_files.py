"""LVIS-92i in the layout of Matcher: 21 categories of three or four small images in each split."""

import json
import pickle

from PIL import Image

HEIGHT, WIDTH = 12, 16
NUMBERS = [7, 3, *range(8, 25), 1, 30]  # the file's own order of 21 categories


def corner(number):
    """Where the box of a category lies: x and y."""
    return number % 9, number % 7


def annotation(number, box=None):
    x, y = box or corner(number)
    outline = [x, y, x + 4, y, x + 4.0, y + 3.0, x, y + 3]
    return {"bbox": [x, y, 4.0, 3.0], "category_id": number, "segmentation": [outline]}


def record(name, *annotations):
    return {"file_name": name, "image_id": 4, "annotations": list(annotations)}


def content(split):
    """By category, photographs that show it; each photograph has four categories."""
    shown = {}
    for place, number in enumerate(NUMBERS):
        for image in range(3 + (number == 3)):
            name = f"{split}2017/{(place + 5 * image) % len(NUMBERS):012d}.jpg"
            shown.setdefault(number, {})[name] = record(name, annotation(number))
    return shown


def make_lvis(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, split, content(split))
        folder = tmp_path / "coco" / f"{split}2017"
        folder.mkdir(parents=True)
        for image in range(len(NUMBERS)):
            Image.new("RGB", (WIDTH, HEIGHT), (image, 0, 0)).save(folder / f"{image:012d}.jpg")
    entries = [
        {
            "id": number,
            "name": f"thing_{number}_(food)",
            "synonyms": [f"thing_{number}_(food)", "it"],
        }
        for number in range(1, 31)
    ]
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps({"images": [], "categories": entries}))
    return tmp_path


def write(root, split, value, protocol=4):
    (root / f"lvis_{split}.pkl").write_bytes(pickle.dumps(value, protocol))
