"""Draws howto-coco.png by running the code and the commands of docs/how-to-coco.md.

python docs/images/make_howto_coco.py
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from PIL import Image

from piclip.cli import main

HERE = Path(__file__).resolve().parent
SHOWN, GAP = 6, 4


def run_page(page: Path) -> None:
    """Run the page's blocks in the current folder."""
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(page), "exec"), {})
            continue
        for command in text.replace("\\\n", " ").splitlines():
            if main(shlex.split(command)[1:]):
                raise SystemExit(f"{command} failed")


def montage(columns: list[list[Image.Image]]) -> Image.Image:
    """Images side by side, those of a column one under the other."""
    width, height = columns[0][0].size
    rows = len(columns[0])
    page = Image.new(
        "RGB", (len(columns) * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white"
    )
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            page.paste(image, (x * (width + GAP), y * (height + GAP)))
    return page


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run_page(HERE.parent / "how-to-coco.md")
        names = sorted(path.name for path in Path("photos").iterdir())[3 : 3 + SHOWN]
        shown = [
            [
                Image.open(Path("photos") / name).convert("RGB"),
                Image.open(
                    Path("overlays") / name
                    if (Path("overlays") / name).exists()
                    else Path("photos") / name
                ).convert("RGB"),
            ]
            for name in names
        ]
        # 256 colours: a third of the size, and nobody sees it in noise.
        montage(shown).quantize(256).save(HERE / "howto-coco.png", optimize=True)
        os.chdir(HERE)
