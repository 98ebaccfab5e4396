"""The how-to "Pre-annotate a Label Studio project": its blocks, and what must come out of them."""

import re
import shlex
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface

from piclip.datasets.scenes import make_scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-label-studio.md"
CLASSES = ("cat", "star")
PORT = "9090"  # on the page


def blocks_of(page):
    return re.findall(r"```(python|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands_of(text):
    return [shlex.split(line)[1:] for line in text.replace("\\\n", " ").splitlines()]


def masks_of(prediction):
    """By class, what a prediction marks: bool (H, W). It must fit the labelling interface."""
    interface = LabelInterface(Path("interface.xml").read_text())
    assert interface.validate_prediction(prediction, return_errors=True) == []
    masks = {name: np.zeros((128, 128), bool) for name in CLASSES}
    for result in prediction["result"]:
        [name] = result["value"]["brushlabels"]
        size = result["original_height"], result["original_width"], 4
        masks[name] |= brush.decode_rle(result["value"]["rle"]).reshape(size)[:, :, 3] > 127
    return masks


def overlap(masks, others):
    """Pixels in the intersection and the union."""
    return (masks & others).sum(), (masks | others).sum()


def check_quality(found):
    """Masks by class of the page's scenes, counted from one: are they worth anything?"""
    for name in CLASSES:
        counts = []
        for number, masks in found.items():
            truth = make_scene(2422, number - 1, include=CLASSES[(number - 1) % 2]).mask(name)
            if truth.any():
                counts.append((*overlap(masks[name], truth), truth.sum(), truth.size))
        inside, union, area, pixels = np.sum(counts, axis=0)
        # At least twice as good as marking the whole of every image that shows the class.
        assert inside / union > 2 * area / pixels
