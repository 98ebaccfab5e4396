"""What the tests of CLIP share: the tiny model as a file and as a folder, and the reference."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from tiny_clip import tiny_state, tiny_tokenizer

from piclip.clip.checkpoints import convert_checkpoint


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def weights_file(tmp_path):
    save_file(tiny_state(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture(scope="session")
def converted(tmp_path_factory, tokenizer_folder):
    folder = tmp_path_factory.mktemp("converted")
    save_file(tiny_state(), folder / "tiny.safetensors")
    return convert_checkpoint(
        folder / "tiny.safetensors", folder / "clip", tokenizer=tokenizer_folder
    )


@pytest.fixture
def clip_folder(tmp_path, converted):
    """A converted folder of the test's own, to damage as it likes."""
    return Path(shutil.copytree(converted, tmp_path / "clip"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, whatever the machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty-cache"))


@pytest.fixture(scope="session")
def golden(shared):
    """The published code's arrays for five small images."""
    with np.load(shared / "golden" / "priors_upstream_small.npz") as arrays:
        return dict(arrays)
