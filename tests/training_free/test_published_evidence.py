"""The published priors in the segmenter against the functions that they are made of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from piclip import FewShotSegmenter
from piclip.clip.preprocessing import mask_coverage, object_patches, object_pixels, to_pixels
from piclip.clip.prompts import text_prototypes
from piclip.errors import UsageError
from piclip.priors import min_max, refine_prior, visual_text_prior, visual_visual_prior
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Vision
from sentences import one_sentence
from squares import picture, pillow, support

PLACES = [(8, 8), (30, 20)]


@pytest.fixture
def segmenter(encoder):
    return FewShotSegmenter(TrainingFreeScorer(encoder, evidence="published"))


def pixels(encoder, image):
    return to_pixels(image, (64, 64), encoder.settings.mean, encoder.settings.std)


def direct(encoder, query, examples, name, contrast=None):
    """The four maps, by direct calls."""
    encoding = encoder.encode(pixels(encoder, query)[None])
    foreground, background = text_prototypes(encoder.encode_text, [name])
    text = visual_text_prior(
        encoding.last_block,
        foreground,
        background,
        logit_scale=encoder.logit_scale,
        grid=(8, 8),
        contrast=contrast,
    )
    cosines = []
    for image, mask in examples:
        shown = pixels(encoder, image) * object_pixels(mask_coverage(mask, (64, 64)))
        inside = object_patches(mask_coverage(mask, (8, 8))).flatten()
        support = encoder.encode(shown[None])
        for theirs, ours in ((encoding.last, support.last), (encoding.previous, support.previous)):
            cosines.append(visual_visual_prior(theirs, ours[None], inside[None, None])[0, 0, 0])
    visual = min_max(torch.stack(cosines).mean(0).view(1, 1, 8, 8))
    return {
        "visual_text": text,
        "visual_text_refined": refine_prior(text, encoding.attention),
        "visual_visual": visual,
        "visual_visual_refined": refine_prior(visual**2, encoding.attention),
    }


@pytest.mark.parametrize("shots", [1, 2])
def test_the_maps_are_those_of_the_functions(encoder, segmenter, shots):
    examples = [pillow(place, seed=n) for n, place in enumerate(PLACES)][:shots]
    query, _ = pillow((20, 36), seed=5)
    segmenter.fit([support(place, seed=n) for n, place in enumerate(PLACES)][:shots], name="cat")
    (result,) = segmenter.predict(query)
    expected = direct(encoder, query, examples, "cat")
    maps = result.priors.maps()
    assert list(maps) == ["fused", *expected]
    for name, values in expected.items():
        # Min-max stretches the last bits of products that are batched in another way.
        np.testing.assert_allclose(maps[name], values[0].numpy(), atol=1e-4, err_msg=name)
    mean = (maps["visual_text_refined"] + maps["visual_visual"]) / 2
    np.testing.assert_allclose(maps["fused"], mean, atol=1e-6)
    enlarged = F.interpolate(torch.from_numpy(maps["fused"])[None], size=(64, 64), mode="bilinear")
    np.testing.assert_allclose(result.scores, enlarged[0].numpy(), atol=1e-5)
    assert result.presence is None and segmenter.threshold == 0.5
    assert (result.mask == (result.scores[0] >= 0.5)).all()


def test_of_one_and_the_same_encoding_the_maps_are_the_same_to_the_bit(encoder, segmenter):
    segmenter.fit(support(), name="cat")
    query, _ = pillow((20, 36), seed=5)
    evidence = segmenter.scorer.evidence
    seen = Vision(encoder, encoder).see([query])
    maps = evidence.answer(seen, [segmenter._memories["cat"]], None).maps
    texts = text_prototypes(encoder.encode_text, ["cat"])
    plain = visual_text_prior(
        seen.encoding.last_block, *texts, logit_scale=encoder.logit_scale, grid=(8, 8)
    )
    assert torch.equal(maps["visual_text"], plain)
    refined = refine_prior(plain, seen.encoding.attention)
    assert torch.equal(maps["visual_text_refined"], refined)
    squared = refine_prior(maps["visual_visual"] ** 2, seen.encoding.attention)
    assert torch.equal(maps["visual_visual_refined"], squared)


def test_classes_have_maps_of_their_own(encoder, segmenter):
    query, _ = picture((20, 36), seed=5)
    segmenter.fit({"cat": support(), "dog": [support(PLACES[1]), support(PLACES[0], seed=3)]})
    (both,) = segmenter.predict(query)
    for index, name in enumerate(segmenter.classes):
        alone = segmenter.unfitted().recall(segmenter, name).predict(query)[0]
        for kind, values in alone.priors.maps().items():
            np.testing.assert_allclose(both.priors.maps()[kind][index], values[0], atol=1e-4)


def test_contrast_texts_join_the_name(encoder, segmenter):
    query, _ = pillow((20, 36), seed=5)
    segmenter.fit(support(), name="cat")
    (told,) = segmenter.predict(query, contrast=["horse", "skull"])
    others = text_prototypes(encoder.encode_text, ["horse", "skull"])[0]
    expected = direct(encoder, query, [pillow()], "cat", others)["visual_text"]
    np.testing.assert_allclose(told.priors.visual_text, expected[0].numpy(), atol=1e-4)
    (plain,) = segmenter.predict(query)
    np.testing.assert_array_equal(told.priors.visual_visual, plain.priors.visual_visual)


def test_a_memory_holds_the_objects_patches_alone(encoder, segmenter):
    segmenter.fit([support(), support((8, 8), side=16)], name="cat")
    memory = segmenter._memories["cat"]
    assert memory.tokens.shape == (2, 9 + 4, 192) and memory.shots == 2
    assert memory.owner.tolist() == [0] * 9 + [1] * 4
    assert_close(memory.coverage, torch.ones(13))


def test_what_cannot_be_is_refused(encoder, vit, segmenter):
    with pytest.raises(UsageError, match="learn from no negatives") as error:
        segmenter.fit(support(), name="cat", negatives=pillow()[0])
    assert one_sentence(error) and segmenter.classes == ()
    with pytest.raises(UsageError, match="leave visual out"):
        TrainingFreeScorer(encoder, vit, evidence="published")
    with pytest.raises(UsageError, match="CLIP"):
        TrainingFreeScorer(None, vit, evidence="published")
    with pytest.raises(UsageError, match="must be 'contrast' or 'published', not 'best'"):
        TrainingFreeScorer(encoder, evidence="best")
    with pytest.raises(UsageError, match="needs a CLIP, another ViT, or both"):
        TrainingFreeScorer(None)
