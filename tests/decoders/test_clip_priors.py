"""The decoders' priors against direct calls of the priors' functions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from piclip.clip.cache import FeatureCache
from piclip.clip.encoder import Encoder
from piclip.clip.features import encode_object, pad_objects
from piclip.clip.preprocessing import mask_coverage, object_patches, object_pixels, to_pixels
from piclip.clip.prompts import text_prototypes
from piclip.datasets.scenes.scene_episodes import scene_episode
from piclip.decoders.clip_priors import PriorMaker
from piclip.errors import UsageError
from piclip.priors import min_max, refine_prior, visual_text_prior, visual_visual_prior


@pytest.fixture(scope="module")
def encoder():
    return Encoder.from_pretrained("builtin", device="cpu")


@pytest.fixture(scope="module")
def episodes():
    return [scene_episode(3, index, 2) for index in (0, 7)]


def encoded_object(encoder, image, mask):
    size = mask.shape  # of the scenes, and multiples of the patch
    pixels = to_pixels(Image.fromarray(image), size, encoder.settings.mean, encoder.settings.std)
    pixels = pixels * object_pixels(mask_coverage(mask, size))
    patches = object_patches(mask_coverage(mask, tuple(s // encoder.patch_size for s in size)))
    return pad_objects([encode_object(encoder, pixels, patches.flatten())])


def inputs(episodes):
    return (
        [e.query.image for e in episodes],
        [[s.image for s in e.supports] for e in episodes],
        [[s.mask(e.class_index) for s in e.supports] for e in episodes],
        [e.name for e in episodes],
    )


def encoded(encoder, image):
    settings = encoder.settings
    pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(settings.mean).view(3, 1, 1)) / torch.tensor(settings.std).view(
        3, 1, 1
    )
    return encoder.encode(pixels[None])


def direct(encoder, episode):
    """Plain VTP, refined VTP, VVP and the square of VVP refined, one image at a time."""
    encoding = encoded(encoder, episode.query.image)
    foreground, background = text_prototypes(encoder.encode_text, [episode.name])
    text = visual_text_prior(
        encoding.last_block,
        foreground,
        background,
        logit_scale=encoder.logit_scale,
        grid=encoding.grid,
    )
    total = 0
    for scene in episode.supports:
        last, previous, valid = encoded_object(
            encoder, scene.image, scene.mask(episode.class_index)
        )
        for query, tokens in ((encoding.last, last), (encoding.previous, previous)):
            total = total + visual_visual_prior(query, tokens[None], valid[None])[0, 0, 0]
    visual = min_max((total / 4).view(1, 1, *encoding.grid))
    return (
        text,
        refine_prior(text, encoding.attention),
        visual,
        refine_prior(visual**2, encoding.attention),
    )


def priors(maker, *arguments):
    """The priors of all episodes, (B, 2, h, w)."""
    return torch.stack(maker.episode_priors(*arguments))


def close(ours, expected):
    # Batched and single products differ in the last bits, which min-max stretches.
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_a_batch_has_the_maps_of_direct_calls(encoder, episodes):
    expected = [direct(encoder, episode) for episode in episodes]
    ours = priors(PriorMaker(encoder), *inputs(episodes))
    assert ours.shape == (2, 2, 16, 16) and not ours.requires_grad and not ours.is_inference()
    assert ours.min() >= 0 and ours.max() <= 1 and ours.amax((-2, -1)).min() > 0.99
    plain = priors(PriorMaker(encoder, text="plain", visual="refined"), *inputs(episodes))
    for index, (text, refined, visual, visual_refined) in enumerate(expected):
        close(ours[index], torch.cat([refined[0], visual[0]]))
        close(plain[index], torch.cat([text[0], visual_refined[0]]))


def test_a_raw_visual_prior_is_the_mean_of_the_best_cosines(encoder, episodes):
    queries, supports, masks, names = inputs(episodes)
    supports[1], masks[1] = supports[1][:1], masks[1][:1]  # episodes may differ in their shots
    raw = priors(PriorMaker(encoder, visual="raw"), queries, supports, masks, names)
    plain = priors(PriorMaker(encoder), queries, supports, masks, names)
    for index, query in enumerate(queries):
        seen = encoded(encoder, query)
        shown = [
            encoded_object(encoder, image, mask)
            for image, mask in zip(supports[index], masks[index], strict=True)
        ]
        expected = np.zeros(seen.grid)
        for number, place in enumerate(np.ndindex(seen.grid)):
            best = [
                float(F.cosine_similarity(block[0, number, None], tokens[0][valid[0]]).max())
                for last, previous, valid in shown
                for block, tokens in ((seen.last, last), (seen.previous, previous))
            ]
            expected[place] = sum(best) / len(best)
        np.testing.assert_allclose(raw[index, 1].numpy(), expected, atol=1e-5)
    assert torch.equal(raw[:, 0], plain[:, 0]) and raw[:, 1].max() < 0.99
    close(min_max(raw[:, 1:]), plain[:, 1:])


def test_a_channel_left_out_is_zero_and_the_other_stays(encoder, episodes):
    both = priors(PriorMaker(encoder), *inputs(episodes))
    without_text = priors(PriorMaker(encoder, text="none"), *inputs(episodes))
    without_visual = priors(PriorMaker(encoder, visual="none"), *inputs(episodes))
    assert without_text[:, 0].abs().max() == 0 and without_visual[:, 1].abs().max() == 0
    assert torch.equal(without_text[:, 1], both[:, 1])
    assert torch.equal(without_visual[:, 0], both[:, 0])


def test_other_candidates_join_the_softmax(encoder, episodes):
    maker = PriorMaker(encoder, text="plain")
    arguments = inputs(episodes)
    target = priors(maker, *arguments)
    itself = priors(maker, *arguments, [[name] for name in arguments[3]])
    assert torch.equal(target, itself)  # the target is no rival of itself
    oracle = priors(maker, *arguments, [["skull"], []])
    assert not torch.allclose(oracle[0, 0], target[0, 0], atol=1e-3)
    assert torch.equal(oracle[1], target[1]) and torch.equal(oracle[0, 1], target[0, 1])


def test_tensors_and_arrays_are_the_same_images_and_other_sizes_work(encoder, episodes):
    queries, supports, masks, names = inputs(episodes[:1])
    maker = PriorMaker(encoder)

    def tensor(image):
        return torch.from_numpy(image).permute(2, 0, 1) / 255

    masks_255 = [[torch.where(torch.as_tensor(m), 1, 255) for m in shots] for shots in masks]
    ours = priors(maker, [tensor(queries[0])], [[tensor(s) for s in supports[0]]], masks_255, names)
    assert torch.equal(ours, priors(maker, queries, supports, masks, names))
    cut = [[supports[0][0], np.ascontiguousarray(supports[0][1][:, :100])]]
    cut_masks = [[masks[0][0], masks[0][1][:, :100]]]
    other = priors(maker, [queries[0][:90]], cut, cut_masks, names)
    assert other.shape == (1, 2, 12, 16)
    both = [queries[0], queries[0][:90]], [*supports, *cut], [*masks, *cut_masks], names * 2
    for together, alone in zip(maker.episode_priors(*both), (ours, other), strict=True):
        close(together, alone[0])


def test_a_small_object_counts_and_an_empty_mask_gives_zeros(encoder, episodes):
    queries, supports, _, names = inputs(episodes[:1])
    dot, empty = np.zeros((128, 128), bool), np.zeros((128, 128), bool)
    dot[60, 60] = True
    maker = PriorMaker(encoder)
    (one,) = maker.support_features(supports[0][:1], [dot])
    assert one.last.shape == one.previous.shape == (1, 192)
    maps = priors(maker, queries, [supports[0][:1]], [[empty]], names)
    assert maps[0, 1].abs().max() == 0 and maps[0, 0].max() > 0.9


def test_the_cache_changes_nothing_and_spares_the_encoder(encoder, episodes, tmp_path, monkeypatch):
    arguments = inputs(episodes)
    fresh = priors(PriorMaker(encoder, cache=FeatureCache(tmp_path)), *arguments)
    close(fresh, priors(PriorMaker(encoder), *arguments))
    # Two queries, their text maps, and four masked supports.
    assert len(list(tmp_path.rglob("*.safetensors"))) == 8
    cached = PriorMaker(encoder, cache=FeatureCache(tmp_path))

    def refuse(*_):
        raise AssertionError("the image is encoded again")

    monkeypatch.setattr(encoder, "encode", refuse)
    monkeypatch.setattr(encoder, "tokens", refuse)
    assert torch.equal(priors(cached, *arguments), fresh)


def test_a_cached_text_map_is_that_of_its_own_texts(encoder, episodes, tmp_path):
    *images, names = inputs(episodes)
    cache = FeatureCache(tmp_path)
    kinds = ({}, {"text": "plain"}, {"templates": ("a {}", "no {}")})
    asked = ((names, None), (names[::-1], None), (names, [["sky"], []]))
    for kind in kinds:
        for own, contrast in asked:
            found = priors(PriorMaker(encoder, cache=cache, **kind), *images, own, contrast)
            close(found, priors(PriorMaker(encoder, **kind), *images, own, contrast))


def test_what_does_not_fit_together_is_refused(encoder, episodes):
    queries, _, masks, _ = inputs(episodes)
    maker = PriorMaker(encoder)
    with pytest.raises(UsageError, match="of the same size"):
        maker.support_features([queries[0]], [masks[0][0][:5]])
    with pytest.raises(UsageError, match="1 masks for 2"):
        maker.support_features(queries, [masks[0][0]])
    with pytest.raises(UsageError, match="text prior is one of none, plain, refined, not 'raw'"):
        PriorMaker(encoder, text="raw")
    with pytest.raises(UsageError, match="visual prior is one of none, plain, refined, raw, not"):
        PriorMaker(encoder, visual="cosine")
