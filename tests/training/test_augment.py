"""Augmentation: exact where it should be, the same for image, labels and maps, and seeded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.decoders.views import IMAGENET_MEAN, IMAGENET_STD, normalise, whole_view
from piclip.training.augment import draw_view
from piclip.training.recipe import AugmentationRecipe

STILL = {"scale": (1, 1), "rotation": 0, "blur": 0, "flip": 0}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def as_tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1) / 255


def test_a_view_that_changes_nothing_is_the_image():
    image = picture(32, 32)
    labels = picture(32, 32)[..., 0]
    view = draw_view((0, 0), 32, 32, AugmentationRecipe(size=32, **STILL))
    torch.testing.assert_close(view.image(image), as_tensor(image), atol=1e-5, rtol=0)
    assert torch.equal(view.labels(labels), torch.from_numpy(labels))


def test_a_mirror_is_a_mirror():
    image = picture(32, 32)
    view = draw_view((0, 0), 32, 32, AugmentationRecipe(size=32, **{**STILL, "flip": 1}))
    torch.testing.assert_close(view.image(image), as_tensor(image).flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), [(60, 40, 32), (20, 31, 32), (375, 281, 224)])
def test_a_whole_view_is_that_of_the_evaluation(height, width, size):
    recipe = AugmentationRecipe(size=size, whole=True, **STILL)
    inside = np.ones((height, width), dtype=bool)
    whole = whole_view(height, width, size).theta
    for key in range(5):  # to the last bit, so that what is kept of it is found again
        assert torch.equal(draw_view((0, key), height, width, recipe, inside).theta, whole)
    assert recipe.comes_back and not AugmentationRecipe(whole=True).comes_back
    nearer = draw_view((0, 1), 32, 32, AugmentationRecipe(size=32, whole=True, scale=(2, 2)))
    assert nearer.kept(np.ones((32, 32), dtype=bool)) < 0.3


def test_a_crop_is_a_part_of_the_image_and_a_small_image_is_padded():
    image = picture(40, 40)
    view = draw_view((0, 1), 40, 40, AugmentationRecipe(size=20, **STILL))
    marked = np.arange(1600).reshape(40, 40) % 251
    part = view.labels(marked.astype(np.uint8)).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(marked, (20, 20))
    assert (windows == part).all(axis=(-1, -2)).any()

    padded = draw_view((0, 1), 40, 40, AugmentationRecipe(size=60, **STILL))
    seen, labels = padded.image(image), padded.labels(np.ones((40, 40), np.uint8))
    assert (labels == 1).sum() == 1600 and (labels[10:50, 10:50] == 1).all()
    assert set(labels.unique().tolist()) == {1, 255}
    border = seen[:, :9].flatten(1)
    torch.testing.assert_close(border, torch.tensor(IMAGENET_MEAN)[:, None].expand_as(border))
    torch.testing.assert_close(seen[:, 10:50, 10:50], as_tensor(image), atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), height=st.integers(30, 60), width=st.integers(30, 60))
def test_image_labels_and_maps_move_together(seed, height, width):
    # A disc, as image, as labels, and as a map on a coarser grid: all three end in one place.
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height * 0.4) ** 2 + (columns - width * 0.6) ** 2 < 64
    view = draw_view((seed,), height, width, AugmentationRecipe(size=48, scale=(0.8, 1.25)), disc)
    image = np.repeat((disc * 255).astype(np.uint8)[..., None], 3, 2)
    labels = view.labels(disc.astype(np.uint8))
    seen = view.image(image)[0]
    maps = view.maps(torch.from_numpy(disc)[None].float())[0]
    object_seen = (labels == 1).float()
    assert (seen[labels == 1] > 0.45).float().mean() > 0.9
    assert (maps - object_seen).abs().mean() < 0.03
    assert abs(view.kept(disc) - float(object_seen.sum()) / _scale(view, height, width)) < 0.1


def _scale(view, height, width):
    """Pixels of the whole disc in the result: its area times the change of area."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height * 0.4) ** 2 + (columns - width * 0.6) ** 2 < 64
    determinant = abs(float(torch.linalg.det(view.theta[:, :2])))
    return disc.sum() / (determinant * height * width / view.size**2)


def test_the_same_key_gives_the_same_view_and_another_key_another():
    recipe = AugmentationRecipe(size=32)
    first, again, other = (draw_view(key, 40, 50, recipe) for key in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first.theta, again.theta) and first.blur == again.blur
    assert not torch.equal(first.theta, other.theta)
    drawn = [draw_view((index,), 40, 50, recipe) for index in range(200)]
    assert 60 < sum(view.blur for view in drawn) < 140
    assert 60 < sum(float(torch.linalg.det(view.theta[:, :2])) < 0 for view in drawn) < 140


def test_scale_and_rotation_stay_within_the_recipe():
    recipe = AugmentationRecipe(size=40, scale=(0.9, 1.1), rotation=10, flip=0)
    for index in range(100):
        turn = draw_view((index,), 40, 40, recipe).theta[:, :2]
        scale = 1 / float(torch.linalg.det(turn)) ** 0.5
        angle = np.degrees(np.arctan2(float(turn[1, 0]), float(turn[0, 0])))
        assert 0.9 <= scale <= 1.1 and abs(angle) <= 10


def test_a_crop_keeps_the_object_where_it_can():
    dot = np.zeros((200, 200), bool)
    dot[30:40, 150:160] = True
    recipe = AugmentationRecipe(size=120, rotation=0, scale=(1, 1), flip=0)
    kept = [draw_view((index,), 200, 200, recipe, dot).kept(dot) for index in range(30)]
    blind = [draw_view((index,), 200, 200, recipe).kept(dot) for index in range(30)]
    assert np.mean(np.array(kept) >= 0.85) > 0.7 > np.mean(np.array(blind) >= 0.85)
    assert draw_view((0,), 200, 200, recipe).kept(np.zeros((200, 200), bool)) == 1


def test_blur_smooths_and_keeps_the_mean():
    image = picture(64, 64)
    plain = AugmentationRecipe(size=64, **STILL)
    blurred = AugmentationRecipe(size=64, **{**STILL, "blur": 1})
    sharp, soft = (draw_view((0,), 64, 64, r).image(image) for r in (plain, blurred))
    assert soft.std() < 0.5 * sharp.std()
    assert float(soft.mean()) == pytest.approx(float(sharp.mean()), abs=0.01)


def test_the_whole_view_fits_the_longer_side():
    view = whole_view(30, 60, 40)
    labels = view.labels(np.ones((30, 60), np.uint8))
    assert (labels == 1).sum() == 20 * 40 and (labels[10:30] == 1).all()


def test_normalise_is_imagenets():
    images = torch.rand(2, 3, 4, 5)
    expected = torch.empty_like(images)
    for c in range(3):
        expected[:, c] = (images[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
    torch.testing.assert_close(normalise(images), expected)
