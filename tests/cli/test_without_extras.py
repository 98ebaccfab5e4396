"""What a plain ``pip install piclip`` says to the commands that need more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "scenes" / "pfenet.yaml"
COMMANDS = {
    "app": ("app",),
    "labelstudio": ("label-studio", "--labels", "labels.json"),
    "train": ("train", "-c", RECIPE, "--output", "run"),
    "data": ("data", "download", "pascal", "--out", "out"),
    "parquet": (
        *("annotate", "--images", ".", "--labels", "labels.json"),
        *("--output", "out.parquet", "--output-format", "parquet"),
    ),
    "formats": ("annotate", "--images", ".", "--labels", "labels.json", "--output", "out.json"),
}
"""By extra, a command that needs it."""

LABELS = {
    "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 9}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 7, 1, 7, 7]]},
    ],
    "categories": [{"id": 1, "name": "cat"}],
}

PLAIN = """
import contextlib, importlib.abc, io, json, sys

MISSING = {
    "accelerate", "gradio", "httpx", "label_studio_sdk", "pooch", "pyarrow",
    "pycocotools", "ray", "starlette", "supervision", "tensorboard", "uvicorn",
}

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from piclip.cli import main

said = {}
for extra, command in json.loads(sys.argv[1]).items():
    sys.argv = ["piclip", *command]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main()
        except SystemExit as error:
            code = error.code
    said[extra] = code, " ".join(err.getvalue().split())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """By extra, the exit code and what was printed, without any extra installed."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    commands = json.dumps(COMMANDS, default=str)
    ran = subprocess.run(
        [sys.executable, "-c", PLAIN, commands], cwd=folder, capture_output=True, check=True
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("extra", COMMANDS)
def test_a_missing_extra_is_named(said, extra):
    code, sentence = said[extra]
    assert (code, sentence.count("piclip: ")) == (2, 1)
    assert f"pip install 'piclip[{extra}]'" in sentence
