"""Labelled scenes and a tiny untrained segmenter."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from piclip import FewShotSegmenter
from piclip.datasets.scenes import make_scene
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask


@pytest.fixture
def segmenter(model):
    return FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")


@pytest.fixture
def scenes(tmp_path):
    """Four scenes on disk: a cat, a cat and a half that is called star, a cat, nothing labelled."""
    root = tmp_path / "photos"
    root.mkdir()
    files = []
    for number in range(4):
        scene = make_scene(31, number, include="cat")
        Image.fromarray(scene.image).save(root / f"photo{number}.png")
        regions = [Region("cat", RunLengthMask.from_array(scene.mask("cat")))]
        if number == 1:
            half = np.zeros(scene.class_map.shape, dtype=np.bool_)
            half[:, :64] = ~scene.mask("cat")[:, :64]
            regions.append(Region("star", RunLengthMask.from_array(half)))
        regions = regions if number < 3 else []
        size = scene.class_map.shape
        files.append(LabelledFile(f"photo{number}.png", *size, tuple(regions), id=10 + number))
    return SimpleNamespace(root=root, labels=Labels(("star", "dog", "cat"), tuple(files)))
