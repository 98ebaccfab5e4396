"""The evidence of supports and names, by hand and on pictures whose answer is known."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from piclip import FewShotSegmenter, Support
from piclip.clip.encoder import Encoder
from piclip.datasets.scenes import make_scene
from piclip.errors import UsageError
from piclip.priors import contrast_prior
from piclip.training_free import contrast as module
from piclip.training_free.clusters import average_over_parts, cluster_parts
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.naming import text_maps
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Vision
from sentences import one_sentence
from squares import BLUE, GREEN, RED, Colours, picture, pillow, support

NO_TEXTS = torch.zeros(0, 0)


def segmenter(tower=None, encoder=None):
    return FewShotSegmenter(TrainingFreeScorer(encoder, tower or Colours()))


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def spread(tokens):
    cosines = tokens.double() @ tokens.double().mT
    return float(cosines.std(correction=0))


def test_the_answer_is_the_formula(encoder):
    evidence = ContrastEvidence(Vision(encoder, encoder))
    texts = encoder.encode_text(["a zebra", "no zebra"])
    memory = evidence.learn("zebra", [pillow(), pillow((30, 20), seed=2)], texts, [])
    told = {"agreement": 0.5, "named": 0.4, "margin": 0.2}
    memory = module.replace(memory, **{field: torch.tensor(v) for field, v in told.items()})
    seen = evidence.vision.see([pillow(seed=3)[0], pillow((0, 40), seed=4)[0]])
    answer = evidence.answer(seen, [memory], None)
    z = [
        contrast_prior(query, shown, memory.coverage[None], sharpness=3 / spread(shown))
        for query, shown in zip(seen.tokens, memory.tokens, strict=True)
    ]
    z = (z[0] + z[1]) / 2
    for index in range(2):
        joint = torch.cat([seen.tokens[0, index], seen.tokens[1, index]], dim=1) / 2**0.5
        averaged = average_over_parts(z[index], cluster_parts(joint))
        r = ((z[index] + averaged) / 2).view(8, 8)
        assert_close(answer.maps["contrast"][index, 0], r.sigmoid(), atol=1e-4, rtol=0)
        plain, refined = text_maps(seen.encoding, texts[None])
        assert_close(answer.maps["visual_text"], plain)
        assert_close(answer.maps["visual_text_refined"], refined)
        t = refined[index, 0].clamp(0.01, 0.99)
        level, asked = (
            evidence.settings.text_level,
            evidence.said(seen, texts[None]).log_odds[index, 0],
        )
        trust = 0.5 / (1 + np.exp(level - 0.4)) / (1 + np.exp(level - float(asked)))
        r = r + evidence.settings.text_weight * trust * torch.log(t / (1 - t)) - 0.2
        assert_close(answer.values[index, 0], r, atol=1e-3, rtol=0)
        assert_close(answer.maps["fused"][index, 0], r.sigmoid(), atol=1e-4, rtol=0)
    assert answer.presence.shape == (2, 1)


def test_a_memory_holds_whole_supports_close_ones_and_negatives():
    evidence = ContrastEvidence(Vision(Colours()))
    image, mask = pillow((0, 0), size=(128, 128), side=32)
    memory = evidence.learn("red", [(image, mask)] * 2, NO_TEXTS, [pillow(None)[0]])
    assert memory.shots == 2 and memory.tokens.shape == (1, 5 * 64, 3)
    assert memory.owner.bincount().tolist() == [128, 128, 64]
    whole, closely, negative = memory.coverage[:64], memory.coverage[64:128], memory.coverage[256:]
    assert whole.mean() == pytest.approx(1 / 16)
    assert closely.mean() == pytest.approx((32 / 40) ** 2, abs=1e-5)  # a quarter to each side
    assert negative.abs().max() == 0 and memory.agreement == 0


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_memory_without_an_image_is_that_of_the_others(left_out):
    evidence = ContrastEvidence(Vision(Colours()))
    examples = [pillow(seed=n) for n in range(3)]
    memory = evidence.learn("red", examples, NO_TEXTS, [])
    without = memory.without(left_out)
    others = [example for number, example in enumerate(examples) if number != left_out]
    expected = evidence.learn("red", others, NO_TEXTS, [])
    for field in ("tokens", "spreads", "coverage"):
        assert_close(getattr(without, field), getattr(expected, field), msg=field)
    assert set(without.owner.tolist()) == {0, 1, 2} - {left_out}
    assert memory.tokens.shape[1] == 3 * 128 and memory.owner.unique().tolist() == [0, 1, 2]


def test_a_memory_without_a_negative_has_less_background_and_the_same_object():
    evidence = ContrastEvidence(Vision(Colours()))
    memory = evidence.learn("red", [pillow()], NO_TEXTS, [pillow(None, seed=n)[0] for n in (1, 2)])
    without = memory.without(2)
    assert without.tokens.shape[1] == memory.tokens.shape[1] - 64
    assert without.coverage.sum() == memory.coverage.sum()


@settings(max_examples=20)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    factor=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
def test_following_edges_is_linear(height, width, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    evidence = ContrastEvidence(Vision(Colours()))
    image, _ = pillow(size=(20, 30), side=9, seed=seed)
    one, other = 4 * torch.randn(2, 2, height, width, generator=generator)
    fine, more = evidence.follow_edges(one, image), evidence.follow_edges(other, image)
    assert fine.shape == (2, 8 * height, 8 * width)
    both = evidence.follow_edges(one + factor * other, image)
    assert_close(both, fine + factor * more, atol=1e-3, rtol=0)
    # Classes and levels keep to themselves, so that maps may be followed apart and added up later.
    assert_close(evidence.follow_edges(one[:1], image), fine[:1], atol=1e-4, rtol=0)
    assert_close(evidence.follow_edges(one + 1, image), fine + 1, atol=1e-3, rtol=0)


def test_the_object_is_found_wherever_it_is():
    model = segmenter().fit(support(), name="red square")
    for place, size in (((40, 40), (64, 64)), ((0, 16), (64, 96)), ((16, 0), (80, 64))):
        image, truth = picture(place, size=size, seed=5)
        (result,) = model.predict(image)
        assert iou(result.mask, truth) > 0.9 and result.presence > 0.5
        assert list(result.priors.maps()) == ["fused", "contrast"]


def test_an_image_without_the_object_stays_low_and_is_drawn_only_if_asked_for():
    model = segmenter(Colours(presence=0.6)).fit(support(), name="red square")
    empty, _ = picture(None, seed=7)
    (result,) = model.predict(empty)
    assert result.presence < 0.5 and not result.mask.any()
    assert result.scores.mean() < 0.1  # nothing is stretched to the image's own best
    violet, _ = picture(colour=(200, 40, 140), seed=8)
    (result,) = model.predict(violet)
    (drawn,) = model.predict(violet, min_presence=0)
    np.testing.assert_array_equal(drawn.scores, result.scores)
    assert drawn.mask.any() and (drawn.mask == (drawn.scores[0] >= 0.5)).all()
    assert (result.at_threshold(0.5, min_presence=0).class_map == drawn.class_map).all()
    (none,) = model.predict(violet, min_presence=1)
    assert not none.mask.any()


def test_several_classes_compete_for_each_pixel():
    model = segmenter().fit({"red": support(), "blue": support(colour=BLUE)})
    image, red = picture((0, 0), seed=9)
    other, _ = picture((36, 36), colour=BLUE, seed=9)
    image[32:] = other[32:]
    blue = np.zeros_like(red)
    blue[36:60, 36:60] = True
    (result,) = model.predict(image)
    assert iou(result.mask_of("red"), red) > 0.85 and iou(result.mask_of("blue"), blue) > 0.85
    alone = segmenter().fit(support(), name="red").predict(image)[0]
    np.testing.assert_allclose(result.scores[0], alone.scores[0], atol=1e-6)


def test_a_batch_is_as_good_as_single_images(encoder, vit):
    model = segmenter(vit, encoder).fit({"red": support(), "blue": support(colour=BLUE)})
    images = [picture(seed=n, size=size)[0] for n, size in enumerate([(64, 64), (40, 90)] * 2)]
    together, apart = model.predict(images), [model.predict(image)[0] for image in images]
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.presence, other.presence, atol=1e-4)


def test_with_a_mirror_left_and_right_are_the_same(encoder, vit):
    model = segmenter(vit, encoder).fit(support(), name="red")
    image, _ = picture((20, 4), seed=11)
    flipped = np.ascontiguousarray(image[:, ::-1])
    one, other = model.predict([image, flipped], mirror=True)
    np.testing.assert_allclose(one.scores, other.scores[..., ::-1], atol=1e-3)
    np.testing.assert_allclose(one.presence, other.presence, atol=1e-4)
    plain, back = model.predict([image, flipped])
    assert np.abs(plain.scores - back.scores[..., ::-1]).max() > 1e-2  # the tower has positions
    np.testing.assert_allclose(one.presence, (plain.presence + back.presence) / 2, atol=1e-4)


def test_without_a_clip_names_are_labels(vit):
    image, _ = picture((20, 30), seed=1)
    one, other = (segmenter(vit).fit(support(), name=name).predict(image)[0] for name in "ab")
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.presence, other.presence)
    assert one.priors.visual_text is None and one.class_names == ("a",)


# How far a name is believed.


def test_a_name_counts_as_far_as_its_map_agrees_with_the_masks(encoder, monkeypatch):
    evidence = ContrastEvidence(Vision(encoder, encoder))
    texts = encoder.encode_text(["a", "b"])
    image, mask = pillow((8, 8), side=24)  # whole patches
    inside = torch.from_numpy(mask)[::8, ::8].float()[None, None]

    def trust(found):
        monkeypatch.setattr(module, "text_maps", lambda *_, **__: (found, found))
        return float(evidence.learn("thing", [(image, mask)] * 2, texts, []).agreement)

    assert trust(inside) == 1
    assert trust(1 - inside) == 0
    assert trust(torch.full_like(inside, 0.3)) == 0
    noise = torch.rand_like(inside)
    part = inside + 1.5 * noise
    pairs = part[inside == 1][:, None] > part[inside == 0][None]
    assert trust(part) == pytest.approx((2 * float(pairs.float().mean()) - 1) ** 2, abs=1e-5)
    assert 0 < trust(part) < 1


def test_a_name_for_something_else_than_the_supports_show_is_believed_less():
    scorer = TrainingFreeScorer(Encoder.from_pretrained("builtin", device="cpu", dtype="float32"))
    scenes = [make_scene(5, number) for number in range(12)]
    right, wrong = [], []
    for scene in [scene for scene in scenes if len(scene.classes) > 1][:4]:
        shown, other = scene.classes[:2]
        example = (Image.fromarray(scene.image), scene.mask(shown))
        for name, trusts in ((shown, right), (other, wrong)):
            memory = scorer.fit(name, [example], negatives=(), synonyms=None)
            trusts.append(float(memory.agreement * memory.named.sigmoid()))
    assert np.mean(right) > np.mean(wrong) + 0.2, (right, wrong)


# No background.


def covered(size=(64, 64)):
    image, _ = picture(None, ground=RED, size=size)
    return Support(image, np.ones(size, bool))


def test_supports_without_background_leave_the_word_to_the_name(encoder):
    model = segmenter(Colours(), encoder)
    with pytest.warns(UserWarning, match="'red' show no background, so only its name") as caught:
        model.fit(covered(), name="red")
    assert len(caught) == 1
    image, _ = picture(seed=1)
    (result,) = model.predict(image, min_presence=0)
    assert (result.priors.contrast == 0.5).all()
    named = result.priors.visual_text_refined.clip(0.01, 0.99).astype(float)
    fused = result.priors.fused.astype(float)
    weight = np.log(fused / (1 - fused)) / np.log(named / (1 - named))
    np.testing.assert_allclose(weight, weight.mean(), rtol=1e-3)
    assert 0 < weight.mean() <= model.encoder.settings.text_weight


def test_supports_without_background_and_without_a_name_are_refused():
    with pytest.raises(UsageError, match=r"no background.*as a negative") as error:
        segmenter().fit(covered(), name="red")
    assert one_sentence(error)


@pytest.mark.parametrize("more", ["negative", "example"])
def test_a_background_may_come_from_elsewhere(more):
    model = segmenter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if more == "negative":
            model.fit(covered(), name="red", negatives=picture(None, seed=3)[0])
        else:
            model.fit([covered(), support(seed=3)], name="red")
    image, truth = picture((30, 10), seed=4)
    assert iou(model.predict(image, min_presence=0)[0].mask, truth) > 0.9


# Bounds.


def test_of_many_supports_some_patches_are_drawn(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PATCHES", 1000)
    model = segmenter().fit([support(seed=n) for n in range(50)], name="red")
    memory = model._memories["red"]
    assert memory.shots == 50 and memory.tokens.shape[1] == 1000
    assert memory.coverage.shape == memory.owner.shape == memory.tokens.shape[1:2]
    counts = memory.owner.bincount()
    assert len(counts) == 50 and counts.min() > 5 and counts.max() < 40  # 20 of each on average
    image, truth = picture((40, 8), seed=99)
    assert iou(model.predict(image)[0].mask, truth) > 0.9


@pytest.mark.filterwarnings("ignore:Negative 1 of 1")
@pytest.mark.parametrize("shape", [(1, 1), (3, 300), (300, 3)])
def test_masks_of_any_shape_are_seen_closely(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[-1, -1] = 255
    mask = np.zeros(shape, bool)
    mask[-1, -1] = True
    negative = Image.new("RGB", (64, 64), GREEN)
    model = segmenter(Colours()).fit(Support(image, mask), name="dot", negatives=negative)
    (result,) = model.predict(image)
    assert result.size == shape and np.isfinite(result.scores).all()


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ((40, 60), (40, 60), (35, 65, 35, 65)),  # a quarter more on each side
        ((0, 20), (80, 100), (0, 25, 75, 100)),  # not beyond the image
        ((10, 90), (50, 52), (0, 100, 21, 81)),  # at least half as wide as long
        ((50, 52), (10, 90), (21, 81, 0, 100)),
    ],
)
def test_the_close_look_is_a_box_around_the_object(rows, columns, expected):
    mask = np.zeros((100, 100), bool)
    mask[slice(*rows), slice(*columns)] = True
    assert module._box(mask) == expected
