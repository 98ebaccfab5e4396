import numpy as np
import pytest
import torch

from piclip.decoders.views import laid_back, whole_view


def test_touched_pixels_are_those_of_the_object():
    view = whole_view(20, 40, 16)
    labels = np.zeros((20, 40), bool)
    labels[5:9, 30:33] = True
    found = view.touched(labels).numpy()
    expected = np.zeros((16, 16), bool)
    for row in range(5, 9):
        for column in range(30, 33):
            expected[int((row + 0.5 - 10) / 40 * 16 + 8), int((column + 0.5) / 40 * 16)] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (64, 64), (100, 64)])
def test_logits_go_back_to_where_the_image_was(size):
    # A half plane in the image, seen in a view of 64 x 64: the longer side fills it.
    side, longest = 64, max(size)
    scale = side / longest
    rows = (torch.arange(side) + 0.5 - side / 2) / scale + size[0] / 2  # image rows of the view
    logits = torch.zeros(2, side, side)
    logits[1] = (rows[:, None] - 0.5 * size[0] - 4).expand(side, side)
    scores = laid_back(logits, size)
    found = (scores[1] > scores[0]).numpy()
    expected = (np.arange(size[0]) + 0.5) > 0.5 * size[0] + 4
    assert found.shape == size
    inner = slice(2, -2)
    assert np.array_equal(found[inner, 0], expected[inner])
    assert (found == found[:, :1]).all()
