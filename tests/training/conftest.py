"""What the tests of training share."""

import pytest
import torch
from tiny_training import tiny_recipe


@pytest.fixture
def recipe():
    return tiny_recipe


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
