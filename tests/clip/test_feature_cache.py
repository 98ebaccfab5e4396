"""Features on disk: by content, whole or not at all, and never in the way."""

import os
import warnings

import pytest
import torch
from torch import nn

from piclip.clip.cache import FeatureCache, MemoryCache, content_key, weights_hash


def test_keys_tell_contents_types_and_shapes_apart():
    zeros = torch.zeros(2, 3)
    keys = {
        content_key("a", zeros),
        content_key("b", zeros),
        content_key(zeros, "a"),
        content_key("a", zeros.view(3, 2)),
        content_key("a", zeros.half()),
        content_key("a", zeros + 1e-7),
        content_key("a", zeros.bfloat16()),
    }
    assert len(keys) == 7
    assert content_key("a", zeros) == content_key("a", torch.zeros(3, 2).T)


def test_the_hash_of_a_model_follows_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    first = weights_hash(model)
    assert first == weights_hash(model)
    model[0].weight.data[0, 0] += 1
    assert weights_hash(model) != first


def test_what_was_put_comes_back_in_another_process_too(tmp_path):
    tensors = {"a": torch.rand(3, 4), "none": torch.zeros(0, 4), "half": torch.rand(2).half()}
    FeatureCache(tmp_path).put("ab12", tensors)
    back = FeatureCache(tmp_path).get("ab12")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    assert FeatureCache(tmp_path).get("cd34") is None
    assert [file.suffix for file in tmp_path.rglob("*.*")] == [".safetensors"]


@pytest.mark.parametrize("damage", [b"", b"not a tensor", None])
def test_a_corrupt_entry_counts_as_absent_and_is_replaced(tmp_path, damage):
    cache = FeatureCache(tmp_path)
    cache.put("ab12", {"a": torch.ones(100)})
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
    assert cache.get("ab12") is None
    cache.put("ab12", {"a": torch.ones(3)})
    assert torch.equal(cache.get("ab12")["a"], torch.ones(3))


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file")
    with pytest.warns(UserWarning, match="no longer cached.*file is where a folder"):
        cache.put("ab12", {"a": torch.ones(1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put("cd34", {"a": torch.ones(1)})
    assert cache.get("ab12") is None


def test_a_full_disk_leaves_no_half_file_and_old_entries_readable(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    cache.put("ab12", {"a": torch.ones(1)})

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.warns(UserWarning, match="disk is full"):
        cache.put("cd34", {"a": torch.ones(1)})
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 1
    assert torch.equal(cache.get("ab12")["a"], torch.ones(1))


def test_the_memory_cache_forgets_the_oldest():
    cache = MemoryCache(limit=3 * 40)
    for number in range(4):
        cache.put(str(number), {"x": torch.full((10,), float(number))})
        cache.get("0")
    assert cache.get("1") is None
    assert torch.equal(cache.get("0")["x"], torch.zeros(10))
    assert cache.get("3") is not None
