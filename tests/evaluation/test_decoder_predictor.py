"""Trained decoders as predictors, from their folder and from memory."""

import pytest
import torch

from piclip.clip.cache import MemoryCache
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.saved import Checkpoint
from piclip.decoders.trained import TrainedDecoder
from piclip.errors import ModelError, UsageError
from piclip.evaluation.decoder_predictor import DecoderPredictor
from piclip.evaluation.evaluate import count_episodes
from piclip.evaluation.predictors import blind

torch.set_num_threads(1)


def test_a_decoder_comes_back_from_its_folder_with_its_recipe(tmp_path, view, small_pfenet):
    run = tmp_path / "run"
    original = small_pfenet("piclip")
    original.save_pretrained(run / "decoder")
    (run / "recipe.yaml").write_text(
        "fold: 0\nclip: {model: builtin, text: none, visual: refined, dtype: float32}\n"
        "augmentation: {size: 49}\n"
    )
    checkpoint = Checkpoint.find(run)
    assert checkpoint == Checkpoint.find(run / "decoder")
    predictor = DecoderPredictor.load(checkpoint, {}, device="cpu")
    method = predictor.method
    assert (method.method, method.prior, method.backbone) == ("pfenet", "vvp+pir", "tiny")
    assert method.settings == {"size": 49, "clip_sees": "augmented"}
    assert method.recipe["fold"] == 0
    encoder = predictor.trained.maker.encoder
    maker = PriorMaker(encoder, text="none", visual="refined", cache=MemoryCache())
    same = DecoderPredictor(TrainedDecoder(original, maker, size=49))
    episodes = [blind(view.load(view.episode(0, index, 1))) for index in range(2)]
    assert torch.equal(predictor.logits(episodes, [(), ()]), same.logits(episodes, [(), ()]))
    again = predictor.reload()
    assert again.method == method


def test_a_decoder_without_clip_needs_no_maker_and_one_with_clip_does(view, small_pfenet):
    predictor = DecoderPredictor(TrainedDecoder(small_pfenet("imagenet"), size=65))
    assert predictor.method.clip is None
    assert count_episodes(predictor, view, [view.episode(0, 0, 1)]).seen.sum() == 1
    with pytest.raises(UsageError, match="PriorMaker"):
        TrainedDecoder(small_pfenet("piclip"))


def test_folders_without_a_decoder_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        Checkpoint.find(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        Checkpoint.find(tmp_path)


def test_the_previous_prior_is_that_of_a_decoder_trained_with_it(view, small_pfenet):
    predictor = DecoderPredictor(TrainedDecoder(small_pfenet("none"), size=65))
    with pytest.raises(UsageError, match="prior=imagenet"):
        predictor.imagenet_prior(view.load(view.episode(0, 0, 1)))
