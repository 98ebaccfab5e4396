"""What the folder of a decoder says: its size and CLIP, or what is wrong with it."""

import json
import math

import numpy as np
import pytest
from decoder_runs import load, probabilities, saved, supports
from safetensors.torch import load_file, save_file
from small_decoders import small_decoder

from piclip import FewShotSegmenter
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import ModelError, UsageError


@pytest.mark.parametrize("prior", ["imagenet", "none"])
def test_a_decoder_without_clip_needs_none(tmp_path, episode, monkeypatch, prior):
    monkeypatch.setattr("piclip.clip.encoder.load_clip", None)
    monkeypatch.setattr("piclip.decoders.scorer.SIZE", 41)  # 473 takes long
    folder = saved(tmp_path, prior=prior) / "decoder"
    (folder / "training.json").unlink()
    fitted = load(folder).fit(supports(episode), name="thing")
    result = fitted.predict([episode.query.image])[0]
    assert result.size == episode.query.image.shape[:2]
    assert fitted.scorer.size == 41
    with pytest.raises(UsageError, match="leave contrast out"):
        fitted.predict([episode.query.image], contrast=["cup"])
    with pytest.raises(UsageError, match="leave clip out"):
        load(folder, clip="builtin")


def test_a_decoder_of_unknown_training_asks_for_its_clip(tmp_path, run, episode, monkeypatch):
    monkeypatch.setattr("piclip.decoders.scorer.SIZE", 41)  # 473 takes long
    folder = saved(tmp_path) / "decoder"
    (folder / "training.json").unlink()
    with pytest.raises(UsageError, match="clip="):
        load(folder)
    given = load(folder, clip="builtin", dtype="float32")
    fitted = given.fit(supports(episode), name=episode.name)
    trained = DecoderScorer.load(run, device="cpu")
    small = DecoderScorer(trained.decoder, trained.maker, size=41)
    score = fitted.predict([episode.query.image])[0].scores[0]
    np.testing.assert_allclose(score, probabilities(small, episode), atol=1e-6)
    loaded = FewShotSegmenter.load(fitted.save(tmp_path / "kept"), device="cpu")
    assert loaded.classes == (episode.name,)


@pytest.mark.parametrize(("shots", "visual"), [(None, "plain"), (1, "raw")])
def test_hdmnet_in_the_published_form_takes_cosines(tmp_path, shots, visual):
    decoder = small_decoder("hdmnet", prior="piclip", published_shots=shots)
    decoder.save_pretrained(tmp_path)
    found = DecoderScorer.load(tmp_path, clip="builtin", device="cpu")
    assert found.maker.visual == visual


def test_the_recipe_beside_a_run_is_read_where_the_decoder_has_no_record(tmp_path):
    folder = saved(tmp_path)
    (folder / "decoder" / "training.json").unlink()
    (folder / "recipe.yaml").write_text("clip: {model: builtin}\naugmentation: {size: 33}\n")
    assert load(folder).scorer.size == load(folder / "decoder").scorer.size == 33


def test_folders_that_are_not_finished_or_damaged_are_refused(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.yaml").write_text("fold: 0\n")
    with pytest.raises(ModelError, match="run piclip train again"):
        load(tmp_path / "half")
    folder = saved(tmp_path / "damaged")
    (folder / "decoder" / "training.json").write_text("{}")
    with pytest.raises(ModelError, match="record of a training"):
        load(folder)
    (folder / "decoder" / "training.json").unlink()
    (folder / "decoder" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="absent or damaged"):
        load(folder)


@pytest.mark.parametrize(
    "options",
    [{"decoder": []}, {"backbone": {}}, {"backbone_options": "a"}, {"width": "8"}, {"width": -1}],
)
def test_options_of_a_wrong_type_in_a_folder_are_refused(tmp_path, options):
    config = saved(tmp_path) / "decoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **options}))
    with pytest.raises(ModelError, match=r"config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, number):
    weights = saved(tmp_path) / "decoder" / "model.safetensors"
    tensors = load_file(weights)
    tensors["merge.0.0.weight"][0] = number
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"not all finite numbers \(merge\.0\.0\.weight\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"clip": {"model": 1}},
        {"clip": {"model": "builtin"}, "augmentation": {"size": "41"}},
        {"clip": {"model": "builtin"}, "augmentation": {"size": 0}},
    ],
)
def test_a_recipe_of_impossible_size_or_clip_is_refused(tmp_path, recipe):
    record = saved(tmp_path) / "decoder" / "training.json"
    record.write_text(json.dumps({"recipe": recipe}))
    with pytest.raises(ModelError, match="where a number of pixels and a name belong"):
        load(tmp_path)
