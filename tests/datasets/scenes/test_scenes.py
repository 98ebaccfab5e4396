import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.datasets.scenes.glyphs import CLASS_NAMES, glyph
from piclip.datasets.scenes.scene import (
    TYPICAL_HUES,
    WORLD,
    Layout,
    make_scene,
)
from piclip.datasets.scenes.scene_dataset import SceneDataset
from piclip.datasets.scenes.scene_episodes import scene_episode
from piclip.errors import UsageError


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 10**6))
def test_a_scene_is_a_pure_function_of_seed_and_index(seed, index):
    first, second = make_scene(seed, index), make_scene(seed, index)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.class_map, second.class_map)
    assert not np.array_equal(first.image, make_scene(seed, index + 1).image)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), name=st.sampled_from(CLASS_NAMES))
def test_the_caption_names_exactly_the_visible_classes(seed, name):
    scene = make_scene(seed, 0, include=name)
    assert scene.image.shape == (WORLD.size, WORLD.size, 3) and scene.image.dtype == np.uint8
    assert scene.class_map.dtype == np.uint8 and scene.class_map.max() <= len(CLASS_NAMES)
    named = set(scene.caption.removeprefix("a photo of ").replace(" and ", ", ").split(", "))
    assert named == set(scene.classes)
    assert name in named
    assert scene.mask(name).sum() >= 12


def test_masks_of_the_classes_tile_the_foreground():
    scene = make_scene(3, 7)
    total = sum(scene.mask(name).astype(int) for name in CLASS_NAMES)
    assert np.array_equal(total, (scene.class_map > 0).astype(int))


def test_the_mask_lies_where_the_object_was_drawn():
    # The same random numbers without an object's body would leave plain ground: inside the mask
    # the colours must differ from the ring around it.
    contrasts = []
    for index in range(30):
        scene = make_scene(11, index, Layout(128, (1, 1), (50, 70), 0))
        inside = scene.class_map > 0
        contrasts.append(
            np.abs(scene.image[inside].mean(axis=0) - scene.image[~inside].mean(axis=0)).max()
        )
    assert np.median(contrasts) > 40


def test_every_class_has_glyphs_and_typical_colours():
    assert len(CLASS_NAMES) == 20 and set(TYPICAL_HUES) == set(CLASS_NAMES)
    shape = glyph("\u2605")
    silhouette, ink = np.asarray(shape.silhouette), np.asarray(shape.ink)
    assert silhouette.shape == ink.shape
    assert (ink[silhouette < 10] < 30).all()


def test_folds_split_the_classes():
    dataset = SceneDataset()
    folds = [dataset.novel_classes(fold) for fold in range(4)]
    assert sorted(CLASS_NAMES[i] for fold in folds for i in fold) == sorted(CLASS_NAMES)
    with pytest.raises(UsageError, match="fold"):
        dataset.novel_classes(4)


def test_wrong_requests_are_refused():
    with pytest.raises(UsageError, match="no class"):
        make_scene(0, 0).mask("zebra")
    with pytest.raises(UsageError, match="no class"):
        make_scene(0, 0, include="zebra")
    with pytest.raises(UsageError, match="fewer or smaller"):
        make_scene(0, 0, Layout(32, (60, 60), (31, 32), 0))
    with pytest.raises(UsageError, match="1 to 50"):
        scene_episode(0, 0, 51)


def test_episodes_take_turns_and_more_shots_begin_with_fewer():
    names = [scene_episode(0, index).name for index in range(20)]
    assert tuple(names) == CLASS_NAMES
    one, three = scene_episode(4, 9, 1), scene_episode(4, 9, 3)
    assert np.array_equal(one.supports[0].image, three.supports[0].image)
    assert np.array_equal(one.query.image, three.query.image)
    assert all(scene.mask(one.class_index).any() for scene in (*three.supports, three.query))


def test_calibration_scenes_are_others_than_test_scenes():
    test, calibration = scene_episode(0, 0), scene_episode(0, 0, calibration=True)
    assert not np.array_equal(test.query.image, calibration.query.image)
