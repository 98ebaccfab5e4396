"""What the tests of training share."""

import pytest
import torch
from tiny_training import tiny_recipe

_OPENED = {}


@pytest.fixture
def recipe():
    return tiny_recipe


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def scenes_are_drawn_once(monkeypatch, request):
    """Scenes are a pure function of their key, so trainings may share the drawn ones."""
    if "train" not in request.module.__dict__:
        return
    from piclip.training import train as training

    plain = training.open_dataset

    def open_once(name, root, **options):
        key = repr((name, root, options))
        if key not in _OPENED:
            _OPENED[key] = plain(name, root, **options)
            _OPENED[key].keep_in_memory()
        return _OPENED[key]

    monkeypatch.setattr(training, "open_dataset", open_once)
