"""What is evaluated, without training and trained: priors, prompts, thresholds, folders."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from piclip import FewShotSegmenter
from piclip.datasets.few_shot import FewShotView
from piclip.datasets.protocols import Measure
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.saved import Checkpoint
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import ModelError, UsageError
from piclip.evaluation.evaluate import Task, choose_threshold
from piclip.evaluation.metrics import IGNORE, FewShotIoU
from piclip.evaluation.predictor import (
    Predictor,
    as_measured,
    blind,
    load_decoder,
    prior_name,
    query_map,
)
from piclip.figures.episodes import imagenet_prior

torch.set_num_threads(1)


def test_prior_rows_threshold_the_mean_of_their_maps(published, view):
    episode = view.load(view.episode(0, 0, 1))
    predictor = Predictor(published, prior="vtp+vvp", threshold=0.4)
    result = predictor.segment(episode)
    priors = result.priors
    mean = torch.from_numpy((priors.visual_text + priors.visual_visual) / 2)[None]
    plain = F.interpolate(mean, size=(128, 128), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.allclose(query_map(result, "vtp+vvp"), plain, atol=1e-6)
    assert np.array_equal(predictor.predict(episode), plain >= 0.4)
    single = query_map(result, "vvp")
    assert single.shape == (128, 128)
    assert not np.array_equal(single, query_map(result, "vtp"))
    assert predictor.method.prior == "vtp+vvp"
    assert (predictor.method.text, predictor.method.visual) == ("plain", "plain")
    with pytest.raises(UsageError, match="no prior 'x'"):
        Predictor(published, prior="x")


def test_contrast_is_called_what_the_dataset_calls_it(segmenter, view):
    episode = view.load(view.episode(0, 0, 1))

    def score(predictor, *contrast):
        return query_map(predictor.segment(episode, contrast), "vtp")

    reworded = Predictor(segmenter, prior="vtp", synonyms={"pottedplant": ("umbrella",)})
    told = score(reworded, "pottedplant")
    plain = Predictor(segmenter, prior="vtp")
    assert np.array_equal(told, score(plain, "umbrella"))
    assert not np.array_equal(told, score(plain))


def test_the_threshold_is_the_best_of_base_episodes(published, view):
    base = FewShotView(
        view.dataset,
        fold=0,
        split="train",
        classes="base",
        novel_pixels="background",
        minimum_images=2,
    )
    predictor = Predictor(published, prior="vvp")
    chosen = choose_threshold(predictor, base, shots=1, episodes=3)
    names = [base.dataset.class_names[index] for index in base.classes]
    thresholds = sorted({chosen, 0.1, 0.5, 0.9})
    meter = FewShotIoU(names, thresholds)
    for index in range(3):
        episode = base.load(base.episode(0, index, 1))
        truth = episode.query.mask(episode.class_index).astype(np.uint8)
        meter.add(episode.name, query_map(predictor.segment(blind(episode)), "vvp"), truth)
    assert meter.miou(thresholds.index(chosen)) == max(meter.mious())


def test_ignored_pixels_do_not_choose_the_threshold(segmenter, view, monkeypatch):
    """As background, the 255s beside the object would ask for the higher threshold."""
    base = FewShotView(
        view.dataset,
        fold=0,
        split="train",
        classes="base",
        novel_pixels="background",
        minimum_images=2,
    )
    load = base.load

    def with_a_border(keys):
        episode = load(keys)
        class_map = np.full_like(episode.query.class_map, IGNORE)
        class_map[:8, :8] = episode.class_index + 1
        class_map[-8:] = 0
        return replace(episode, query=replace(episode.query, class_map=class_map))

    def score(result, name):
        values = np.full(result.size, 0.4, np.float32)
        values[:8, :8] = np.repeat([[0.3], [0.6]], 4, axis=0)
        values[-8:] = 0.1
        return values

    predictor = Predictor(segmenter, prior="vvp")
    monkeypatch.setattr(base, "load", with_a_border)
    monkeypatch.setattr("piclip.evaluation.evaluate.query_map", score)
    chosen = choose_threshold(predictor, base, shots=1, episodes=1)
    assert 0.1 < chosen <= 0.3


def test_names_of_priors():
    assert prior_name("refined", "plain") == "piclip"
    assert prior_name("plain", "none") == "vtp"
    assert prior_name("none", "none") == "none"
    assert prior_name("refined", "raw") == "piclip"
    assert prior_name("none", "raw") == "vvp"


def test_a_decoder_comes_back_from_its_folder_with_its_recipe(
    tmp_path, segmenter, view, small_pfenet
):
    run = tmp_path / "run"
    original = small_pfenet("piclip")
    original.save_pretrained(run / "decoder")
    (run / "recipe.yaml").write_text(
        "fold: 0\nclip: {model: builtin, text: none, visual: refined, dtype: float32}\n"
        "augmentation: {size: 49}\n"
    )
    checkpoint = Checkpoint.find(run)
    assert checkpoint == Checkpoint.find(run / "decoder")
    source = partial(load_decoder, checkpoint.folder, device="cpu")
    predictor = Predictor.load(source, recipe=checkpoint.recipe)
    method = predictor.method
    assert (method.method, method.prior, method.backbone) == ("pfenet", "vvp+pir", "tiny")
    assert method.settings == {"size": 49, "clip_sees": "augmented"}
    assert method.recipe["fold"] == 0
    maker = PriorMaker(segmenter.encoder, text="none", visual="refined")
    same = Predictor(FewShotSegmenter(DecoderScorer(original, maker, size=49)))
    for index in range(2):
        episode = blind(view.load(view.episode(0, index, 1)))
        assert np.array_equal(predictor.segment(episode).scores, same.segment(episode).scores)
    again = predictor.reload()
    assert again.method == method


def test_a_decoder_without_clip_needs_no_maker_and_one_with_clip_does(
    view, decoder_in_memory, small_pfenet
):
    predictor = decoder_in_memory("imagenet")
    assert predictor.method.clip is None
    task = Task(view, (predictor.least_score,))
    counts = task.count(predictor, [view.episode(0, 0, 1)])
    assert counts.seen.sum() == 1
    with pytest.raises(UsageError, match="PriorMaker"):
        DecoderScorer(small_pfenet("piclip"))


def test_folders_without_a_decoder_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        Checkpoint.find(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        Checkpoint.find(tmp_path)


def test_the_previous_prior_is_that_of_a_decoder_trained_with_it(view, decoder_in_memory):
    with pytest.raises(UsageError, match="prior=imagenet"):
        imagenet_prior(decoder_in_memory("none"), view.load(view.episode(0, 0, 1)))


@pytest.mark.parametrize("kind", ["without training", "decoder"])
def test_the_same_supports_are_fitted_once(kind, segmenter, decoder_in_memory, view, monkeypatch):
    predictor = Predictor(segmenter) if kind == "without training" else decoder_in_memory("none")
    fits = []
    fit = FewShotSegmenter.fit
    monkeypatch.setattr(
        FewShotSegmenter, "fit", lambda *a, **k: (fits.append(k["name"]), fit(*a, **k))[1]
    )
    first = view.load(view.episode(0, 0, 2))
    second = replace(first, query=first.supports[0])
    fewer = replace(first, supports=first.supports[:1])
    for episode in (first, second, first, fewer):
        predictor.predict(blind(episode))
    assert fits == [first.name, first.name]


@given(seed=st.integers(0, 10**6), side=st.integers(2, 12))
def test_a_square_is_laid_out_as_the_plain_formulas_say(seed, side):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 12, 2)
    scores = rng.random((height, width), dtype=np.float32)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (height, width))
    laid, labels = as_measured(scores, truth, Measure(side, ignore=True))
    for row in range(side):
        for column in range(side):
            y, x = row * (height - 1) / (side - 1), column * (width - 1) / (side - 1)
            weights = np.maximum(0, 1 - abs(np.arange(height) - y))[:, None] * np.maximum(
                0, 1 - abs(np.arange(width) - x)
            )
            assert laid[row, column] == pytest.approx((weights * scores).sum(), abs=1e-5)
            assert labels[row, column] == truth[row * height // side, column * width // side]


def test_ignored_pixels_become_background_where_a_protocol_counts_them():
    scores = np.array([[0.9, 0.1, 0.7]], np.float32)
    truth = np.array([[1, 255, 255]], np.uint8)
    same, labels = as_measured(scores, truth, Measure(ignore=False))
    assert same is scores and labels.tolist() == [[1, 0, 0]]
    assert truth.tolist() == [[1, 255, 255]]
    assert as_measured(scores, truth, Measure())[1] is truth
