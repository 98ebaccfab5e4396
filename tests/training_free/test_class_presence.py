"""Whether a class is in an image: the formula, and where its level lies."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from piclip import FewShotSegmenter, Support
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.evidence import cosine_spreads
from piclip.training_free.naming import named_log_odds
from piclip.training_free.presence import class_presence, lift, presence_scores
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Seen, Vision
from squares import Colours, pillow

NO_TEXTS = torch.zeros(0, 0)
VIOLET = (200, 40, 140)


def slow_score(seen, memory, log_odds, index, said):
    """S of one query, patch by patch."""
    terms = []
    for query, support in zip(seen.tokens[:, index].double(), memory.tokens.double(), strict=True):
        weights = [1 / (1 + math.exp(-3 * r)) for r in log_odds[index].tolist()]
        u = sum(w * q for w, q in zip(weights, query, strict=True))
        o = sum(c * s for c, s in zip(memory.coverage.tolist(), support, strict=True))
        u, o = u / u.norm(), o / o.norm()
        a = torch.tensor([float(s @ o) for s in support])
        terms.append(float((u @ o - a.mean()) / (5 * a.std())))
    score = sum(terms) / len(terms) + max(log_odds[index].tolist()) / 8
    if said is not None:
        believed = float(memory.agreement) / (1 + math.exp(-float(memory.named)))
        score += believed * (1 / (1 + math.exp(-float(said[index, 0]))) - 0.6)
    return score


@pytest.mark.parametrize("named", [False, True])
def test_the_score_is_the_formula(encoder, vit, named):
    evidence = ContrastEvidence(Vision(vit, encoder if named else None))
    texts = encoder.encode_text(["a zebra", "no zebra"]) if named else NO_TEXTS
    memory = evidence.learn("zebra", [pillow(), pillow((30, 20), seed=2)], texts, [])
    memory = replace(memory, agreement=torch.tensor(0.7), named=torch.tensor(1.3))
    seen = evidence.vision.see([pillow(seed=3)[0], pillow((0, 40), seed=4)[0]])
    log_odds, read = evidence.log_odds(seen, [memory]), evidence.said(seen, texts[None])
    said = read and read.log_odds
    assert (said is not None) == named
    found = presence_scores(seen, [memory], log_odds, said)[:, 0]
    flat = log_odds[:, 0].flatten(1)
    expected = [slow_score(seen, memory, flat, index, said) for index in range(2)]
    assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    probability = class_presence(seen, [memory], log_odds, said)[:, 0]
    assert_close(probability, torch.sigmoid(8 * (found - memory.level)))
    at_level = class_presence(seen, [replace(memory, level=found[0])], log_odds, said)
    assert at_level[0, 0] == 0.5


@settings(max_examples=50)
@given(
    highest=st.floats(-6, 6),
    presence=st.floats(0, 1),
    threshold=st.floats(0.02, 0.98),
    share=st.floats(0, 2),
)
def test_the_lift_is_the_formula(highest, presence, threshold, share):
    values = (torch.tensor(v, dtype=torch.float64) for v in (highest, presence, threshold))
    found = float(lift(*values, share))
    missing = math.log(threshold / (1 - threshold)) + 1 - highest
    sure = min(max(presence, 1e-6), 1 - 1e-6)
    allowed = share * max(0.0, math.log(sure / (1 - sure)))
    assert found == pytest.approx(min(max(0.0, missing), allowed), abs=1e-9)
    assert found == 0 or presence > 0.5


def test_a_class_that_is_surely_there_is_raised_and_no_other():
    supports = [Support(*pillow())]
    image, faint = pillow()[0], pillow(colour=VIOLET, seed=8)[0]
    asked = [image, faint, pillow(None, seed=7)[0]]
    high = 0.97  # above what any pixel of the faint one gets
    plain, raised = (
        FewShotSegmenter(TrainingFreeScorer(None, Colours(presence=0.1, threshold=high, lift=own)))
        .fit(supports, name="red")
        .predict(asked, min_presence=0.5)
        for own in (0.0, 5.0)
    )
    assert plain[1].presence > 0.6 and plain[1].score.max() < high
    assert not plain[1].mask.any() and raised[1].mask.any()
    log_odds = [np.log(r.score / (1 - r.score)) for r in (plain[1], raised[1])]
    gaps = log_odds[1] - log_odds[0]
    np.testing.assert_allclose(gaps, gaps.mean(), atol=0.02)  # by the same everywhere
    at_top = log_odds[1].max()
    assert at_top == pytest.approx(math.log(high / (1 - high)) + 1, abs=0.3)
    assert plain[2].presence < 0.5
    np.testing.assert_array_equal(plain[2].score, raised[2].score)
    np.testing.assert_array_equal(plain[1].presence, raised[1].presence)


def test_the_names_log_odds_are_those_of_clip(encoder):
    pixels = torch.from_numpy(np.array(pillow()[0])).permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (encoder.settings.mean, encoder.settings.std)
    )
    # The positions of the tiny CLIP are resized in another way by transformers, so that its own
    # size is asked for.
    large = torch.nn.functional.interpolate((pixels - mean) / std, size=(128, 128))
    texts = torch.stack([encoder.encode_text([f"a {n}", f"no {n}"]) for n in ("cat", "dog")])
    found = named_log_odds(encoder.encode(large), texts)
    with torch.inference_mode():
        theirs = normalize(encoder.model.get_image_features(large).pooler_output, dim=-1)
    logits = encoder.logit_scale * torch.einsum("bd,ckd->bck", theirs, texts)
    assert_close(found, logits[..., 0] - logits[..., 1], atol=1e-4, rtol=0)
    assert_close(found.sigmoid(), logits.softmax(-1)[..., 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_direction_that_all_tokens_share_changes_little(share):
    evidence = ContrastEvidence(Vision(Colours()))
    memory = evidence.learn("red", [pillow()], NO_TEXTS, [])
    images = [pillow(seed=1)[0], pillow(None, seed=2)[0], pillow(colour=VIOLET, seed=3)[0]]
    seen = evidence.vision.see(images)

    def mixed(tokens):
        shared = torch.full_like(tokens[..., :1], share**0.5)
        return torch.cat([tokens * (1 - share) ** 0.5, shared], dim=-1)

    tokens = mixed(memory.tokens)
    narrow_memory = replace(memory, tokens=tokens, spreads=cosine_spreads(tokens))
    narrow = Seen(mixed(seen.tokens), seen.grid, None)
    plain_odds = evidence.log_odds(seen, [memory])
    narrow_odds = evidence.log_odds(narrow, [narrow_memory])
    assert_close(narrow_odds, plain_odds, atol=1e-2, rtol=1e-2)
    scores = presence_scores(seen, [memory], plain_odds, None)
    narrow_scores = presence_scores(narrow, [narrow_memory], narrow_odds, None)
    assert_close(narrow_scores, scores, atol=0.05, rtol=0)


# The level.


def score_of(evidence, image, memory):
    seen = evidence.vision.see([image])
    return float(presence_scores(seen, [memory], evidence.log_odds(seen, [memory]), None))


def learnt(evidence, examples, negatives=()):
    return evidence.learn("red", examples, NO_TEXTS, negatives)


def test_one_support_leaves_the_level_of_the_settings():
    evidence = ContrastEvidence(Vision(Colours(presence=0.37)))
    assert learnt(evidence, [pillow()]).level == pytest.approx(0.37)


def test_several_supports_move_the_level_half_way_to_the_least_of_their_own():
    evidence = ContrastEvidence(Vision(Colours(presence=0.37)))
    examples = [pillow(), pillow(colour=VIOLET, seed=1), pillow((30, 30), seed=2)]
    own = [
        score_of(evidence, image, learnt(evidence, examples[:n] + examples[n + 1 :]))
        for n, (image, _) in enumerate(examples)
    ]
    assert max(own) - min(own) > 0.01
    level = learnt(evidence, examples).level
    assert float(level) == pytest.approx((0.37 + min(own) - 0.1) / 2, abs=1e-5)


def test_no_more_than_eight_supports_are_asked_for(monkeypatch):
    evidence = ContrastEvidence(Vision(Colours()))
    asked = []
    original = evidence.log_odds
    monkeypatch.setattr(evidence, "log_odds", lambda *a: asked.append(a) or original(*a))
    learnt(evidence, [pillow(seed=n) for n in range(12)])
    assert len(asked) == 8


@pytest.mark.parametrize("shots", [1, 2])
def test_with_negatives_the_level_lies_between_them_and_the_supports(shots):
    evidence = ContrastEvidence(Vision(Colours(presence=-9.0)))
    examples = [pillow(seed=n) for n in range(shots)]
    negatives = [pillow(colour=VIOLET, seed=5)[0], pillow(None, seed=6)[0]]
    memory = learnt(evidence, examples, negatives)
    if shots == 1:
        present = score_of(evidence, examples[0][0], memory)
    else:
        present = min(
            score_of(evidence, examples[n][0], learnt(evidence, [examples[1 - n]], negatives))
            for n in range(2)
        )
    absent = [
        score_of(evidence, negatives[n], learnt(evidence, examples, [negatives[1 - n]]))
        for n in range(2)
    ]
    assert float(memory.level) == pytest.approx((max(absent) + present) / 2, abs=1e-5)
    assert max(absent) < memory.level < present


def test_negatives_raise_the_level_and_never_lower_it():
    for default in (0.1, 5.0):
        evidence = ContrastEvidence(Vision(Colours(presence=default)))
        plain = learnt(evidence, [pillow()])
        told = learnt(evidence, [pillow()], [pillow(colour=VIOLET, seed=5)[0]])
        if default == 5.0:
            assert told.level == plain.level
        else:
            assert told.level > plain.level


@pytest.mark.parametrize("shots", [1, 2])
def test_a_negative_that_holds_the_object_is_warned_of(shots):
    evidence = ContrastEvidence(Vision(Colours()))
    examples = [pillow(seed=n) for n in range(shots)]
    good, bad = pillow(None, seed=6)[0], examples[0][0]
    with pytest.warns(UserWarning, match="Negative 2 of 2 looks as much like 'red' as") as caught:
        learnt(evidence, examples, [good, bad])
    assert len(caught) == 1 and str(caught[0].message).endswith(".")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt(evidence, examples, [good, pillow(colour=VIOLET, seed=5)[0]])
