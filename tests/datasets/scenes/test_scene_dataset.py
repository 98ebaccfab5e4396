import numpy as np
import pytest

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.datasets.scenes.scene import CLASS_NAMES
from piclip.datasets.scenes.scene_dataset import SceneDataset
from piclip.errors import UsageError


def test_scenes_are_pure_functions_of_their_keys():
    first, second = (open_dataset("scenes", train_images=30, val_images=20) for _ in range(2))
    for key in ("train-0", "train-29", "val-0", "val-19"):
        one, two = first.sample(key), second.sample(key)
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.class_map, two.class_map)
        assert one.image.shape == (128, 128, 3) and one.image.dtype == np.uint8
        assert np.array_equal(one.image, first.image(key))
    assert not np.array_equal(first.image("train-0"), first.image("val-0"))
    other = open_dataset("scenes", seed=1)
    assert not np.array_equal(first.image("train-0"), other.image("train-0"))


def test_folds_are_those_of_the_world():
    dataset = SceneDataset(val_images=12)
    assert dataset.class_names == CLASS_NAMES and dataset.folds() == 4
    for fold in range(4):
        names = tuple(CLASS_NAMES[index] for index in dataset.novel_classes(fold))
        assert names == CLASS_NAMES[5 * fold : 5 * fold + 5]


def test_worlds_lie_apart_from_those_of_episodes_and_captions(monkeypatch):
    """Both of those draw from seeds of at most 32 bits and a little."""
    seeds = set()

    def record(seed, index, layout):
        seeds.add(seed)
        raise UsageError("recorded")

    monkeypatch.setattr("piclip.datasets.scenes.scene_dataset.make_scene", record)
    for seed in (0, 2**63 - 1):
        for key in ("train-0", "val-0"):
            with pytest.raises(UsageError, match="recorded"):
                SceneDataset(seed=seed).image(key)
    assert len(seeds) == 4 and min(seeds) >= 2**64


def test_the_rule_of_pixels_follows_the_size(tmp_path):
    assert SceneDataset().minimum_pixels == 64
    small = SceneDataset(train_images=10, val_images=12, size=64, cache=tmp_path)
    assert small.minimum_pixels == 16 and small.image("val-0").shape == (64, 64, 3)
    view = FewShotView(small, fold=0, split="val", classes="novel")
    for index in view.classes:
        for key in view.images_of[index]:
            assert (small.class_map(key) == index + 1).sum() >= 16
    assert (tmp_path / "presence-val.npz").is_file()


def test_wrong_arguments_are_named():
    for options, message in [
        ({"size": 16}, "32 to 1024 pixels wide, not 16"),
        ({"val_images": 0}, "1 image or more"),
        ({"seed": -1}, "seed of scenes must be 0"),
        ({"colour": 1}, "no option 'colour'"),
        ({"train_images": "60"}, "its option train_images = '60' is no int"),
        ({"val_images": 1.5}, "its option val_images = 1.5 is no int"),
        ({"minimum_pixels": True}, r"minimum_pixels = True is no int \| None"),
        ({"cache": 3}, "cache = 3 is no"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_dataset("scenes", **options)
    dataset = SceneDataset(train_images=2, val_images=2)
    for key in ("val-2", "val-01", "test-0", "train--1"):
        with pytest.raises(UsageError, match="no image"):
            dataset.sample(key)
