"""Fits how the segmenter weighs its evidence: ``python -m world.fusion_weights MODEL``.

Reads episodes of the built-in world that are set aside for calibration, fits one logistic model of
the patches per number of supports, then chooses the one threshold of the finished masks, and writes
all three into the model folder's ``piclip.json``. Test episodes are never read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from piclip.clip.preprocessing import mask_coverage, to_pixels
from piclip.clip.settings import SETTINGS_FILE, read_json
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.datasets.scenes.scene_episodes import scene_episode
from piclip.evaluation.metrics import THRESHOLDS, FewShotIoU
from piclip.evaluation.predictor import Predictor, truth_of
from piclip.io.images import MAX_PIXELS, read_image
from piclip.io.outputs import write_json
from piclip.io.supports import Support
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.evidence import evidence_logits, gather_evidence
from piclip.training_free.learning import logistic_regression, with_bias
from piclip.training_free.scorer import TrainingFreeScorer

SHOTS = {"fusion": 1, "fusion_many": 5}
NEWTON_STEPS = 12


def fit_logistic(logits: Tensor, coverage: Tensor) -> Tensor:
    """Ridge logistic regression by Newton's method, penalty 1, the bias last.

    Args:
        logits: log-odds of the evidence, float64 (P, M).
        coverage: share of each patch that is object, float64 (P,).

    Returns:
        Weights and bias, (M + 1,).
    """
    inputs = with_bias(logits)
    start = inputs.new_zeros(inputs.shape[1])
    equal = torch.ones_like(coverage)
    return logistic_regression(inputs, coverage, equal, start, 1.0, steps=NEWTON_STEPS)


def fit_weights(segmenter: FewShotSegmenter, shots: int, episodes: int) -> tuple[float, ...]:
    """Weights and bias of the evidence for ``shots`` supports, to two digits."""
    maps, targets = zip(*_evidence(segmenter, shots, episodes), strict=True)
    weights = fit_logistic(torch.cat(maps).double(), torch.cat(targets).double())
    return tuple(round(value, 2) for value in weights.tolist())


def choose_threshold(segmenter: FewShotSegmenter, episodes: int) -> float:
    """The threshold with the best mIoU of the finished masks, mean over the numbers of shots."""
    predictor, curves = Predictor(segmenter), []
    for shots in SHOTS.values():
        meter = FewShotIoU(CLASS_NAMES, THRESHOLDS)
        for index in range(episodes):
            episode = scene_episode(0, index, shots, calibration=True)
            truth = truth_of(episode.query, episode.class_index)
            meter.add(episode.name, predictor.segment(episode).scores[0], truth)
        curves.append(meter.mious())
    return THRESHOLDS[int(np.mean(curves, axis=0).argmax())]


@torch.inference_mode()
def _evidence(
    segmenter: FewShotSegmenter, shots: int, episodes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-odds (N, M) and coverage (N,) of the query's patches, episode by episode."""
    encoder, scorer = segmenter.encoder, TrainingFreeScorer(segmenter.encoder)
    settings, side = encoder.settings, encoder.image_size
    grid = (side // encoder.patch_size, side // encoder.patch_size)
    for index in range(episodes):
        episode = scene_episode(0, index, shots, calibration=True)
        supports = [
            Support(scene.image, scene.mask(episode.class_index)) for scene in episode.supports
        ]
        memory = scorer.fit(episode.name, supports, synonyms=None, max_pixels=MAX_PIXELS)
        image = read_image(episode.query.image)
        pixels = to_pixels(image, (side, side), settings.mean, settings.std)
        evidence = gather_evidence(
            encoder.encode(pixels[None]), [memory], logit_scale=encoder.logit_scale
        )[0]
        logits = evidence_logits(evidence.stacked()[0]).flatten(1).T
        yield logits, mask_coverage(episode.query.mask(episode.class_index), grid).flatten()


def main() -> None:
    """The command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder; its piclip.json is changed")
    parser.add_argument("--episodes", type=int, default=200, help="calibration episodes")
    options = parser.parse_args()
    segmenter = FewShotSegmenter.from_pretrained(options.model)
    found: dict[str, Any] = {
        name: fit_weights(segmenter, shots, options.episodes) for name, shots in SHOTS.items()
    }
    encoder = segmenter.encoder
    encoder.settings = replace(encoder.settings, **found)
    found["threshold"] = choose_threshold(segmenter, options.episodes)
    file = options.model / SETTINGS_FILE
    write_json((read_json(file) or {}) | found, file)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
