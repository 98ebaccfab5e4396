"""Draws howto-label-studio.png by running the first half of docs/how-to-label-studio.md.

python docs/images/make_howto_label_studio.py
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from make_howto_coco import montage, run_page
from PIL import Image

from piclip.formats import read_labels, write_overlays

HERE = Path(__file__).resolve().parent
CLASSES = ("cat", "star")
LABELLED, PROPOSED = 3, 5
NEEDS_LABEL_STUDIO = "### Into the project"


def accept(tasks: list[dict[str, object]]) -> None:
    """Write the predictions as if a person had accepted them, so that they can be read."""
    for task in tasks:
        task["annotations"] = task.pop("predictions", [])
    Path("accepted.json").write_text(json.dumps(tasks))


if __name__ == "__main__":
    page = (HERE.parent / "how-to-label-studio.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("page.md").write_text(page.split(NEEDS_LABEL_STUDIO)[0], encoding="utf-8")
        run_page(Path("page.md"))
        accept(json.loads(Path("tasks.json").read_text()))
        for labels in ("export.json", "accepted.json"):
            drawn = read_labels(labels, images="photos", class_names=CLASSES)
            write_overlays(drawn, "overlays", images="photos")
        columns = []
        for path in sorted(Path("photos").iterdir())[: LABELLED + PROPOSED]:
            [overlay] = [*Path("overlays").rglob(path.name), path][:1]
            columns.append([Image.open(p).convert("RGB") for p in (path, overlay)])
        # 256 colours: a third of the size, and nobody sees it in noise.
        montage(columns).quantize(256).save(HERE / "howto-label-studio.png", optimize=True)
        os.chdir(HERE)
