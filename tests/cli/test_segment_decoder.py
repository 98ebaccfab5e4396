"""``piclip segment`` with a trained decoder as the model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.decoders.registry import build_decoder


def save(folder, seed, recipe=None):
    torch.manual_seed(seed)
    decoder = build_decoder("pfenet", backbone="tiny", prior="piclip", width=8, scales=[9, 5, 3])
    decoder.save_pretrained(folder / "decoder")
    if recipe is not None:
        (folder / "decoder" / "training.json").write_text(json.dumps({"recipe": recipe}))


@pytest.fixture
def run(tmp_path, world):
    recipe = {"clip": {"model": str(world.model)}, "augmentation": {"size": 41}}
    save(tmp_path / "run", 0, recipe)
    return tmp_path / "run"


def command(world, model, *more):
    return (
        *("segment", "--model", model, "--device", "cpu", "--support", world.support),
        *("--mask", world.mask, "--name", "cat", "--query", world.photos),
        *("--output", world.output, *more),
    )


def test_a_training_segments_and_is_known_again(piclip, world, run):
    assert piclip(*command(world, run)).code == 0
    segmenter = FewShotSegmenter.from_pretrained(run, device="cpu")
    segmenter.fit([Support(world.support, world.mask)], name="cat")
    for result in segmenter.predict(sorted(world.photos.iterdir())):
        written = np.asarray(Image.open(world.output / f"{result.name}.png")) > 0
        np.testing.assert_array_equal(written, result.mask)
    assert "3 from an earlier run" in piclip(*command(world, run)).err
    save(run, 1)
    again = piclip(*command(world, run))
    assert again.code == 2 and "other settings (weights)" in again.sentence


def test_the_clip_is_asked_for_where_no_training_names_it(piclip, world, run):
    (run / "decoder" / "training.json").unlink()
    asked = piclip(*command(world, run))
    assert asked.code == 2 and "--clip" in asked.sentence
    needless = piclip(*command(world, world.model, "--clip", "builtin"))
    assert needless.code == 2 and "leave clip out" in needless.sentence
