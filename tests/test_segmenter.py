import json

import numpy as np
import pytest
import torch
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.clip.preprocessing import mask_coverage
from piclip.datasets.episodes import scene_episode
from piclip.errors import MaskError, ModelError, UsageError
from piclip.io.supports import fit_discriminant, prepare_support


@pytest.fixture(scope="module")
def segmenter():
    return FewShotSegmenter.from_pretrained("builtin", device="cpu")


@pytest.fixture(scope="module")
def episode():
    return scene_episode(0, 12, 2)


def supports(episode, count=1):
    return [Support(s.image, s.mask(episode.name)) for s in episode.supports[:count]]


def fitted(segmenter, episode, count=1):
    return FewShotSegmenter(segmenter.encoder).fit(supports(episode, count), name=episode.name)


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def test_it_finds_the_class_better_than_chance(segmenter):
    # Mean over a few held-out episodes; a mask of everything would score the object's share.
    found, share = [], []
    for index in range(8):
        episode = scene_episode(1, index)
        truth = episode.query.mask(episode.name)
        result = fitted(segmenter, episode).predict([episode.query.image])[0]
        found.append(iou(result.mask, truth))
        share.append(truth.mean())
    assert np.mean(found) > 3 * np.mean(share)
    assert np.mean(found) > 0.4


def test_the_result_has_the_images_own_size_and_all_maps(segmenter, episode):
    model = fitted(segmenter, episode, 2)
    image = Image.fromarray(episode.query.image).resize((190, 77))
    result = model.predict([image])[0]
    assert result.size == (77, 190) and result.scores.shape == (1, 77, 190)
    assert result.class_names == (episode.name,)
    grid = result.priors.visual_text.shape[1:]
    assert grid[1] > grid[0] and 200 < grid[0] * grid[1] < 320
    assert result.priors.fused.shape == result.priors.visual_visual_refined.shape == (1, *grid)


def test_batches_do_not_change_results(segmenter, episode):
    model = fitted(segmenter, episode)
    images = [episode.query.image, episode.supports[1].image, episode.query.image[:64]]
    together = model.predict(images, batch_size=8)
    apart = [model.predict([image])[0] for image in images]
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.scores - other.scores).max() < 1e-4
    assert [result.name for result in together] == ["00000", "00001", "00002"]


def test_several_classes_compete_for_each_pixel(segmenter):
    first, second = scene_episode(2, 3), scene_episode(2, 5)
    model = FewShotSegmenter(segmenter.encoder)
    model.fit({e.name: supports(e) for e in (first, second)})
    result = model.predict([first.query.image], threshold=0.3)[0]
    assert result.class_names == (first.name, second.name)
    best = result.scores.argmax(0)
    one = result.mask_of(first.name)
    assert (best[one] == 0).all() and (result.scores[0][one] >= 0.3).all()
    assert not (one & result.mask_of(second.name)).any()


def test_fitting_again_adds_and_replaces(segmenter, episode):
    other = scene_episode(0, 7)
    model = fitted(segmenter, episode)
    model.fit(supports(other), name=other.name).fit(supports(episode, 2), name=episode.name)
    assert model.class_names == (episode.name, other.name)
    assert model.memories[episode.name].shots == 2


def test_a_failed_fit_changes_nothing(segmenter, episode):
    model = fitted(segmenter, episode)
    empty = Support(episode.query.image, np.zeros((128, 128), bool))
    with pytest.raises(MaskError):
        model.fit({"cup": supports(episode), "cloud": [empty]})
    assert model.class_names == (episode.name,)


def test_contrast_texts_change_the_text_prior_only(segmenter, episode):
    model = fitted(segmenter, episode)
    plain = model.predict([episode.query.image])[0].priors
    told = model.predict([episode.query.image], contrast=("umbrella", "skull"))[0].priors
    assert np.abs(plain.visual_text - told.visual_text).max() > 1e-3
    assert np.array_equal(plain.visual_visual, told.visual_visual)


def test_a_tiny_object_is_not_lost_on_the_grid(segmenter, episode):
    mask = np.zeros((128, 128), bool)
    mask[50, 61] = True
    labelled = prepare_support(Image.fromarray(episode.supports[0].image), mask, segmenter.encoder)
    assert labelled.object_patches.sum() == 1
    model = FewShotSegmenter(segmenter.encoder)
    model.fit([Support(episode.supports[0].image, mask)], name="speck")
    result = model.predict([episode.query.image])[0]
    assert np.isfinite(result.scores).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 900), (900, 7)])
def test_awkward_shapes_work_as_support_and_query(segmenter, size):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, bool)
    mask[0, 0] = True
    model = FewShotSegmenter(segmenter.encoder).fit([Support(image, mask)], name="thing")
    result = model.predict([image])[0]
    assert result.size == size and np.isfinite(result.scores).all()


def test_a_mask_of_everything_works(segmenter, episode):
    everything = np.ones((128, 128), bool)
    model = FewShotSegmenter(segmenter.encoder)
    model.fit([Support(episode.supports[0].image, everything)], name="scene")
    assert np.isfinite(model.predict([episode.query.image])[0].scores).all()


def test_saved_and_loaded_it_answers_the_same(segmenter, episode, tmp_path):
    model = fitted(segmenter, episode, 2)
    model.fit(supports(scene_episode(0, 7)), name="flag")
    loaded = FewShotSegmenter.load(model.save(tmp_path / "cats"), device="cpu")
    assert loaded.class_names == model.class_names
    one, other = (m.predict([episode.query.image])[0] for m in (model, loaded))
    assert np.array_equal(one.scores, other.scores)


def test_a_broken_folder_is_refused(segmenter, episode, tmp_path):
    with pytest.raises(ModelError, match="no complete saved segmenter"):
        FewShotSegmenter.load(tmp_path)
    folder = fitted(segmenter, episode).save(tmp_path / "one")
    index = json.loads((folder / "segmenter.json").read_text())
    (folder / "segmenter.json").write_text(json.dumps(index | {"width": 7}))
    with pytest.raises(ModelError, match="another"):
        FewShotSegmenter.load(folder)
    (folder / "memories.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="no complete"):
        FewShotSegmenter.load(folder)


def test_wrong_requests_say_what_to_do(segmenter, episode):
    model = FewShotSegmenter(segmenter.encoder)
    with pytest.raises(UsageError, match="call fit first"):
        model.predict([episode.query.image])
    with pytest.raises(UsageError, match="name="):
        model.fit(supports(episode))
    with pytest.raises(UsageError, match="1 to 50"):
        model.fit([], name="cat")
    with pytest.raises(UsageError, match="leave name out"):
        model.fit({"cat": supports(episode)}, name="cat")
    model.fit(supports(episode), name="cat")
    with pytest.raises(UsageError, match="batch size"):
        model.predict([episode.query.image], batch_size=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        model.predict([episode.query.image], threshold=2)


def test_discriminant_solves_the_weighted_ridge_problem():
    torch.manual_seed(0)
    features, coverage = torch.randn(40, 6, dtype=torch.float64), torch.rand(40).double()
    direction, offset = fit_discriminant(features, coverage, ridge=0.1)
    inside = coverage >= 0.5
    weight = torch.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum())

    def loss(d, o):
        return (weight * (features @ d + o - coverage) ** 2).sum() + 0.1 * (d**2).sum()

    best = loss(direction, offset)
    for _ in range(30):
        shifted = (
            direction + 0.01 * torch.randn(6).double(),
            offset + 0.01 * torch.randn(1).double(),
        )
        assert loss(*shifted) > best


def test_coverage_of_a_support_is_exact(segmenter, episode):
    mask = episode.supports[0].mask(episode.name)
    labelled = prepare_support(Image.fromarray(episode.supports[0].image), mask, segmenter.encoder)
    assert torch.equal(labelled.coverage, mask_coverage(mask, (16, 16)))
    assert labelled.mirrored().coverage.equal(labelled.coverage.flip(1))
