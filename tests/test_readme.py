"""The README's Python runs as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from piclip.clip.checkpoints import BUILTIN_FOLDER
from piclip.datasets.scenes import make_scene

README = Path(__file__).parents[1] / "README.md"
MODEL = "openai/clip-vit-base-patch16"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def in_the_hubs_cache(cache, name):
    """The built-in model where the hub would have put the named one."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir()
    snapshot.symlink_to(BUILTIN_FOLDER)


def test_the_python_of_the_readme_runs_as_printed(tmp_path):
    code = blocks()
    assert len(code) == 3
    assert f'from_pretrained("{MODEL}")' in code[0]
    in_the_hubs_cache(tmp_path / "cache", MODEL)
    (tmp_path / "photos").mkdir()
    names = sorted(set(re.findall(r'"([\w/]+\.(?:jpg|png))"', "".join(code))))
    supports = [f"{name}.{kind}" for name in ("lion1", "lion2", "zebra") for kind in ("jpg", "png")]
    assert names == ["a.jpg", "b.jpg", *supports]
    for name in names:
        scene = make_scene(0, len(name), include="cat")
        mask = scene.mask("cat").astype(np.uint8) * 255
        Image.fromarray(mask if name.endswith("png") else scene.image).save(tmp_path / name)
    Image.fromarray(make_scene(1, 0).image).save(tmp_path / "photos" / "one.jpg")
    (tmp_path / "photos" / "two.jpg").write_bytes(b"no picture")
    (tmp_path / "readme.py").write_text("\n".join([*code, "print(coco['images'], vvp.shape)"]))
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "readme.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "two.jpg: this is not an image" in ran.stdout
    assert "'file_name': 'one.jpg'" in ran.stdout and "[1, 2, 1, 256]" in ran.stdout
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a.png", "b.png"]
    assert (tmp_path / "my-animals" / "segmenter.json").is_file()
