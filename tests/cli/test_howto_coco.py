"""The how-to "From three labelled images to a COCO file", run as it is written."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from piclip.datasets.scenes import make_scene

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-coco.md"
CLASSES = ("cat", "star")


@pytest.fixture(scope="module")
def blocks():
    """The page's code blocks in order."""
    return re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_page_runs_and_its_proposals_fit_the_scenes(piclip, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = []
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), {})
            continue
        for command in text.replace("\\\n", " ").splitlines():
            ran = piclip(*shlex.split(command)[1:], "--json")
            assert ran.code == 0, ran.err
            commands.append((command, json.loads(ran.out)))
    (_, measured), (command, written) = commands

    assert all(0 <= entry["iou"] <= 100 for entry in measured["holdout"])
    assert [entry["labelled"] for entry in measured["holdout"]] == [2, 2]
    assert (written["annotated"], written["failed"]) == (12, [])

    proposals = COCO("proposals.json")
    assert len(proposals.imgs) == 12
    least = float(re.search(r"--min-score (\S+)", command)[1])
    assert proposals.anns
    assert all(least <= annotation["score"] <= 1 for annotation in proposals.anns.values())

    found = {name: [] for name in CLASSES}
    for image in proposals.imgs.values():
        drawn = np.asarray(Image.open(Path("photos") / image["file_name"]))
        number = int(image["file_name"][5:7])
        scene = make_scene(2422, number, include=CLASSES[number % 2])
        np.testing.assert_array_equal(drawn, scene.image)
        for category in proposals.cats.values():
            truth = scene.mask(category["name"])
            if truth.any():
                masks = [
                    proposals.annToMask(a).astype(bool)
                    for a in proposals.imgToAnns[image["id"]]
                    if a["category_id"] == category["id"]
                ]
                proposed = np.any(masks, axis=0) if masks else np.zeros_like(truth)
                found[category["name"]].append(
                    ((proposed & truth).sum(), (proposed | truth).sum(), truth.sum(), truth.size)
                )
    for counts in found.values():
        inside, union, area, pixels = np.sum(counts, axis=0)
        # At least twice as good as marking the whole of every image that shows the class.
        assert inside / union > 2 * area / pixels

    with Path("review.csv").open(encoding="utf-8", newline="") as file:
        certainties = [float(row["certainty"]) for row in csv.DictReader(file)]
    assert len(certainties) == 12
    assert certainties == sorted(certainties)
    shown = {a["image_id"] for a in proposals.anns.values()}
    assert len(list(Path("overlays").iterdir())) == len(shown)
    assert (PAGE.parent / "images" / "howto-coco.png").is_file()
