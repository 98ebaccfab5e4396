"""Scaling of maps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from piclip.priors import min_max


@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5), scale=st.floats(0.1, 100))
def test_each_map_spans_zero_to_one_whatever_its_scale(seed, shift, scale):
    maps = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    scaled = min_max(maps * scale + shift)
    assert scaled.amin((-2, -1)).eq(0).all()
    torch.testing.assert_close(scaled.amax((-2, -1)), torch.ones(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled, min_max(maps), atol=1e-4, rtol=0)


def test_a_constant_map_becomes_zero():
    assert not min_max(torch.full((1, 2, 2), 3.0)).any()
