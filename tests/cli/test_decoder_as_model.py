"""``piclip segment`` and ``piclip annotate`` with a trained decoder as the model."""

import json
import shutil
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from piclip import FewShotSegmenter, Support
from piclip.decoders.networks import build_decoder
from piclip.formats import Labels


def save(folder, seed, recipe=None):
    torch.manual_seed(seed)
    decoder = build_decoder("pfenet", backbone="tiny", prior="piclip", width=8, scales=[9, 5, 3])
    decoder.save_pretrained(folder / "decoder")
    if recipe is not None:
        (folder / "decoder" / "training.json").write_text(json.dumps({"recipe": recipe}))


@pytest.fixture
def training(tmp_path, model):
    recipe = {"clip": {"model": str(model)}, "augmentation": {"size": 41}}
    save(tmp_path / "run", 0, recipe)
    return tmp_path / "run"


def segment(world, model, *more):
    return (
        *("segment", "--model", model, "--device", "cpu", "--support", world.support),
        *("--mask", world.mask, "--name", "cat", "--query", world.photos),
        *("--output", world.output, *more),
    )


def test_a_training_segments_and_is_known_again(piclip, world, training):
    assert piclip(*segment(world, training)).code == 0
    segmenter = FewShotSegmenter.from_pretrained(training, device="cpu")
    segmenter.fit([Support(world.support, world.mask)], name="cat")
    for result in segmenter.predict(sorted(world.photos.iterdir())):
        written = np.asarray(Image.open(world.output / f"{result.name}.png")) > 0
        np.testing.assert_array_equal(written, result.mask)
    assert "3 from an earlier run" in piclip(*segment(world, training)).err
    save(training, 1)
    again = piclip(*segment(world, training))
    assert again.code == 2 and "other settings (weights)" in again.sentence


@pytest.mark.parametrize("named_by", ["the command", "the training"])
def test_another_clip_under_the_same_name_is_noticed(piclip, world, training, tmp_path, named_by):
    clip = tmp_path / "clip"
    shutil.copytree(world.model, clip)
    asked = segment(world, training, "--clip", clip)
    if named_by == "the training":
        save(training, 0, {"clip": {"model": str(clip)}, "augmentation": {"size": 41}})
        asked = segment(world, training)
    assert piclip(*asked).code == 0
    weights = load_file(clip / "model.safetensors")
    save_file({key: 2 * tensor for key, tensor in weights.items()}, clip / "model.safetensors")
    again = piclip(*asked)
    assert again.code == 2 and "other settings (weights)" in again.sentence


def test_the_clip_is_asked_for_where_no_training_names_it(piclip, world, training):
    (training / "decoder" / "training.json").unlink()
    asked = piclip(*segment(world, training))
    assert asked.code == 2 and "--clip" in asked.sentence
    needless = piclip(*segment(world, world.model, "--clip", "builtin"))
    assert needless.code == 2 and "leave --clip out" in needless.sentence


def test_a_training_annotates_and_is_measured_as_by_hand(annotate, album, training):
    ran = annotate("--model", training, "--holdout", "--min-area", "0", "--json")
    assert ran.code == 0
    segmenter = FewShotSegmenter.from_pretrained(training, device="cpu", dtype="float32")
    labels, written = album.labels(), album.by_path()
    segmenter.fit(labels.supports(album.photos))
    for result in segmenter.predict(labels.unlabelled(album.photos)):
        for name in result.class_names:
            proposed = written[f"{result.name}.png"].mask_of(name)
            np.testing.assert_array_equal(proposed, result.mask_of(name))
    assert sum(json.loads(ran.out)["regions"].values()) > 0
    overlaps = []
    for asked, shown in permutations(labels.labelled):
        supports = Labels(labels.class_names, (shown,)).supports(album.photos)
        (result,) = segmenter.unfitted().fit(supports).predict([album.photos / asked.path])
        found, truth = result.mask_of("cat"), asked.mask_of("cat")
        overlaps.append(((found & truth).sum(), (found | truth).sum()))
    inside, union = np.sum(overlaps, axis=0)
    _, cat = json.loads(ran.out)["holdout"]
    assert cat["iou"] == pytest.approx(100 * inside / union, abs=0.01) and inside > 0


def test_annotating_knows_the_weights_of_decoder_and_clip_wherever_they_lie(
    annotate, training, predicted
):
    assert annotate("--model", training).code == 0
    predicted.clear()
    moved = training.rename(training.parent / "moved")
    ran = annotate("--model", moved)
    assert (ran.code, predicted) == (0, []) and "4 from an earlier run" in ran.err
    other_clip = annotate("--model", moved, "--clip", "builtin")
    assert other_clip.code == 2 and "other settings (model)" in other_clip.sentence
    save(moved, 1)
    other_decoder = annotate("--model", moved)
    assert other_decoder.code == 2 and "other settings (model)" in other_decoder.sentence


def test_annotating_takes_the_clip_where_no_training_names_it(
    annotate, training, model, monkeypatch
):
    monkeypatch.setattr("piclip.decoders.scorer.SIZE", 41)  # 473 takes long
    (training / "decoder" / "training.json").unlink()
    asked = annotate("--model", training)
    assert asked.code == 2 and "--clip" in asked.sentence
    assert annotate("--model", training, "--clip", model).code == 0
    needless = annotate("--clip", "builtin")
    assert needless.code == 2 and "leave --clip out" in needless.sentence
