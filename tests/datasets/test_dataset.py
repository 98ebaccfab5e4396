import numpy as np
import pytest

from piclip.datasets.dataset import Dataset, Sample, fold_members
from piclip.errors import DatasetError, UsageError


def test_presence_counts_every_class_of_every_image(toy):
    dataset = toy(3)
    presence = dataset.presence("val")
    assert dataset.keys("val") == tuple(dataset.maps["val"]) and presence.shape == (60, 8)
    for row, class_map in zip(presence, dataset.maps["val"].values(), strict=True):
        expected = [np.count_nonzero(class_map == index + 1) for index in range(8)]
        assert row.tolist() == expected and row.dtype == np.int64


def test_counts_are_kept_on_disk_until_the_dataset_changes(toy, tmp_path):
    first, second, changed = toy(3, cache=tmp_path), toy(3, cache=tmp_path), toy(4, cache=tmp_path)
    counts = first.presence("val")
    assert first.counted == 60
    assert first.presence("val") is counts and first.counted == 60
    assert np.array_equal(second.presence("val"), counts) and second.counted == 0
    assert not np.array_equal(changed.presence("val"), counts) and changed.counted == 60


def test_a_damaged_cache_is_made_anew(toy, tmp_path):
    counts = toy(3, cache=tmp_path).presence("val")
    file = tmp_path / "presence-val.npz"
    for damage in (b"", b"no archive", file.read_bytes()[:-40]):
        file.write_bytes(damage)
        again = toy(3, cache=tmp_path)
        assert np.array_equal(again.presence("val"), counts) and again.counted == 60


def test_a_cache_that_cannot_be_written_is_done_without(toy, tmp_path):
    (tmp_path / "a file").write_text("in the way")
    dataset = toy(3, cache=tmp_path / "a file" / "cache")
    assert np.array_equal(dataset.presence("val"), toy(3).presence("val"))


def test_a_sample_of_many_classes_has_values_of_its_own():
    class_map = np.array([[0, 1], [1, 255]], dtype=np.uint8)
    masks = {700: np.eye(2, dtype=bool)[::-1], 3: np.array([[0, 0], [1, 0]], dtype=bool)}
    sample = Sample("a", np.zeros((2, 2, 3), dtype=np.uint8), class_map, masks)
    assert sample.mask(700).tolist() == [[False, True], [True, False]]
    assert sample.mask(3).tolist() == [[False, False], [True, False]]
    assert not sample.mask(0).any()
    base = sample.without((3, 8))
    assert base.class_map.tolist() == [[0, 1], [0, 255]] and not base.mask(3).any()
    assert np.array_equal(base.mask(700), sample.mask(700)) and sample.mask(3).any()


def test_impossible_folds_are_refused():
    with pytest.raises(UsageError, match="3 classes make 1 to 3 folds, not 4"):
        fold_members(3, 4, "contiguous")
    with pytest.raises(UsageError, match="choose from interleaved, contiguous"):
        fold_members(8, 4, "random")


def test_class_names_must_be_there_and_differ(toy):
    make = type(toy(0))
    with pytest.raises(UsageError, match="0 classes"):
        make({"train": {}, "val": {}}, classes=0)

    class Named(make):
        def __init__(self, names):
            Dataset.__init__(self, "named", names)

    for names, message in [
        ([], "there is no class"),
        (["cat", " "], "is blank"),
        (["cat", "dog", "cat"], "two classes are called 'cat'"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Named(names)
