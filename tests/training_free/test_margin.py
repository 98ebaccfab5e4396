"""How much surer than the threshold pixels must be, as several supports tell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from piclip import FewShotSegmenter, Support
from piclip.clip.preprocessing import mask_coverage
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.margin import MARGINS, best_margin
from piclip.training_free.naming import map_log_odds, name_trust
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Vision
from squares import Colours, pillow

NO_TEXTS = torch.zeros(0, 0)


def slow_margin(answers, threshold):
    """Step by step and pixel by pixel."""
    level, tried = math.log(threshold / (1 - threshold)), {}
    for step in MARGINS:
        hit = union = 0.0
        for log_odds, coverage in answers:
            for r, c in zip(log_odds.flatten().tolist(), coverage.flatten().tolist(), strict=True):
                found = r >= level + step - 1e-9
                hit += c if found else 0
                union += 1 if found else c
        tried[step] = len(answers) * hit / max(union, 1e-6) - step**2
    return tried


@settings(max_examples=50)
@given(
    seed=st.integers(0, 1000),
    shots=st.integers(1, 4),
    threshold=st.floats(0.1, 0.9),
    clutter=st.floats(0, 0.6),
)
def test_the_margin_is_the_formula(seed, shots, threshold, clutter):
    generator = torch.Generator().manual_seed(seed)
    middle = math.log(threshold / (1 - threshold))
    answers = []
    for _ in range(shots):
        coverage = torch.rand(6, 7, generator=generator, dtype=torch.float64)
        noise = torch.randn(6, 7, generator=generator, dtype=torch.float64)
        answers.append((middle + 2 * coverage - 1 + clutter + noise / 4, coverage))
    tried = slow_margin(answers, threshold)
    found = float(best_margin(answers, torch.tensor(threshold, dtype=torch.float64)))
    assert found in MARGINS
    assert tried[found] == pytest.approx(max(tried.values()), abs=1e-9)


def test_without_answers_there_is_none():
    assert best_margin([], torch.tensor(0.5)) == 0


def spotted(seed):
    """A red square, and beside it one half as red that is no object."""
    image, mask = pillow((0, 0), seed=seed)
    near, spot = pillow((32, 32), colour=(135, 120, 50), seed=seed)
    pixels = np.where(spot[..., None], np.array(near), np.array(image))
    return Image.fromarray(pixels), mask


def left_out(evidence, examples, texts=NO_TEXTS):
    """What each example gets from the others, as a query would, and what is object in it."""
    whole = evidence.learn("red", examples, texts, [])
    for number, (image, mask) in enumerate(examples):
        seen, known = evidence.vision.see([image]), whole.without(number)
        r = evidence.log_odds(seen, [known])
        if (said := evidence.said(seen, texts[None])) is not None:
            trust = name_trust(
                whole.agreement, whole.named, said.log_odds, evidence.settings.text_level
            )
            r = r + evidence.settings.text_weight * trust * map_log_odds(said.refined)
        fine = evidence.follow_edges(r[0], image)[0]
        yield fine, mask_coverage(mask, tuple(fine.shape))


def test_clutter_in_the_supports_raises_the_bar_and_a_single_support_never():
    evidence = ContrastEvidence(Vision(Colours(threshold=0.3)))
    examples = [spotted(n) for n in range(6)]
    margin = evidence.learn("red", examples, NO_TEXTS, []).margin
    tried = slow_margin(list(left_out(evidence, examples)), 0.3)
    assert float(margin) == pytest.approx(max(tried, key=tried.get))
    assert margin > 0
    assert evidence.learn("red", examples[:1], NO_TEXTS, []).margin == 0
    assert evidence.learn("red", examples[:1], NO_TEXTS, [pillow(None)[0]]).margin == 0


def test_the_margin_counts_the_name(encoder):
    evidence = ContrastEvidence(Vision(encoder, encoder))
    texts = encoder.encode_text(["a zebra", "no zebra"])
    examples = [spotted(n) for n in range(3)]
    margin = evidence.learn("red", examples, texts, []).margin
    threshold = evidence.settings.threshold
    tried = slow_margin(list(left_out(evidence, examples, texts)), threshold)
    assert tried[MARGINS[int(torch.tensor(MARGINS).sub(margin).abs().argmin())]] == pytest.approx(
        max(tried.values()), abs=1e-3
    )


def test_scores_are_lowered_by_the_margin_which_a_restored_memory_keeps():
    scorer = TrainingFreeScorer(None, Colours(threshold=0.3))
    segmenter = FewShotSegmenter(scorer).fit([Support(*spotted(n)) for n in range(6)], name="red")
    memory = segmenter._memories["red"]
    again = scorer.restore("red", scorer.tensors(memory))
    assert again.margin == memory.margin > 0
    image = spotted(9)[0]
    seen = scorer.vision.see([image])
    assert_close(
        scorer.evidence.answer(seen, [again], None).values,
        scorer.evidence.log_odds(seen, [memory]) - memory.margin,
    )
