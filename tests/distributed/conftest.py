"""A fitted segmenter, and a folder of scenes with one file that is no image."""

import pytest
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.datasets.scenes import make_scene


@pytest.fixture
def segmenter(model, one_thread):
    shown = make_scene(41, 0, include="cat")
    segmenter = FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")
    return segmenter.fit(Support(shown.image, shown.mask("cat")), name="cat")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(12):
        below = folder / "more" if number % 4 == 3 else folder
        Image.fromarray(make_scene(42, number).image).save(below / f"photo{number:02}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture
def bucket(photos, memory):
    """The scenes in a storage that is no disk."""
    for file in photos.rglob("*.*"):
        memory.pipe(f"/bucket/{file.relative_to(photos)}", file.read_bytes())
    return "memory://bucket"
