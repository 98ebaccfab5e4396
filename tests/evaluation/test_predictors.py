"""Predictors without training: their priors, prompts and thresholds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from piclip.datasets.few_shot import FewShotView
from piclip.errors import UsageError
from piclip.evaluation.metrics import IGNORE, ClassIoU
from piclip.evaluation.predictors import (
    TrainingFree,
    blind,
    choose_threshold,
    combined_map,
    prior_name,
)

torch.set_num_threads(1)


def test_prior_rows_threshold_the_mean_of_their_maps(segmenter, view):
    episode = view.load(view.episode(0, 0, 1))
    predictor = TrainingFree(segmenter, prior="vtp+vvp", threshold=0.4)
    priors = predictor.segment(episode).priors
    mean = torch.from_numpy((priors.visual_text + priors.visual_visual) / 2)[None]
    plain = F.interpolate(mean, size=(128, 128), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.allclose(predictor.score(episode), plain, atol=1e-6)
    assert np.array_equal(predictor.predict([episode], [()])[0], plain >= 0.4)
    single = combined_map(priors, "vvp", (128, 128))
    assert single.shape == (128, 128)
    assert predictor.method.prior == "vtp+vvp"
    assert (predictor.method.text, predictor.method.visual) == ("plain", "plain")
    with pytest.raises(UsageError, match="no prior 'x'"):
        TrainingFree(segmenter, prior="x")


def test_rivals_are_called_what_the_dataset_calls_them(segmenter, view):
    episode = view.load(view.episode(0, 0, 1))
    reworded = TrainingFree(segmenter, prior="vtp", wordings={"pottedplant": ("umbrella",)})
    told = reworded.score(episode, ["pottedplant"])
    plain = TrainingFree(segmenter, prior="vtp")
    assert np.array_equal(told, plain.score(episode, ["umbrella"]))
    assert not np.array_equal(told, plain.score(episode))


def test_the_threshold_is_the_best_of_base_episodes(segmenter, view):
    base = FewShotView(
        view.dataset,
        fold=0,
        split="train",
        classes="base",
        novel_pixels="background",
        minimum_images=2,
    )
    predictor = TrainingFree(segmenter, prior="vvp")
    chosen = choose_threshold(predictor, base, shots=1, episodes=3)
    names = [base.dataset.class_names[index] for index in base.classes]
    thresholds = sorted({chosen, 0.1, 0.5, 0.9})
    meter = ClassIoU(names, thresholds)
    for index in range(3):
        episode = base.load(base.episode(0, index, 1))
        truth = episode.query.mask(episode.class_index)
        meter.add(episode.name, predictor.score(blind(episode)), truth)
    assert meter.miou()[thresholds.index(chosen)] == meter.miou().max()


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

    def score(episode, others=()):
        values = np.full(episode.query.class_map.shape, 0.4, np.float32)
        values[:8, :8] = np.repeat([[0.3], [0.6]], 4, axis=0)
        values[-8:] = 0.1
        return values

    predictor = TrainingFree(segmenter, prior="vvp")
    monkeypatch.setattr(base, "load", with_a_border)
    monkeypatch.setattr(predictor, "score", score)
    chosen = choose_threshold(predictor, base, shots=1, episodes=1)
    assert 0.1 < chosen <= 0.3


def test_names_of_priors():
    assert prior_name("refined", "plain") == "piclip"
    assert prior_name("plain", "none") == "vtp"
    assert prior_name("none", "none") == "none"
    assert prior_name("refined", "raw") == "piclip"
    assert prior_name("none", "raw") == "vvp"
