"""Encodings that are kept: the same as those made anew, in bounded memory."""

import pytest
import torch

from piclip.label_studio.encodings import KeptEncodings


@pytest.fixture
def images():
    return torch.randn(4, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_what_is_recalled_is_what_was_made(encoder, images):
    kept = KeptEncodings()
    expected = encoder.encode(images[0])
    tokens = encoder.encode_tokens(images[0])
    for _ in range(2):
        with encoder.keeping(kept):
            found = encoder.encode(images[0])
            assert torch.equal(found.last, expected.last)
            assert torch.equal(found.attention, expected.attention)
            for one, other in zip(encoder.encode_tokens(images[0]), tokens, strict=True):
                assert torch.equal(one, other)
    assert len(kept) == 2
    assert encoder.encode(images[0]) is not found
    with encoder.keeping(kept):
        assert encoder.encode(images[0]) is found
        assert encoder.encode(images[1]) is not found


def test_memory_is_bounded_and_what_is_asked_for_now_stays():
    def make(values):
        return (values.clone(),)

    values = torch.arange(4.0)[:, None]
    kept = KeptEncodings(limit=8)
    first = [kept.recall("x", value, make) for value in values[:3]]
    assert len(kept) == 2
    assert kept.recall("x", values[0], make) is first[0]
    assert kept.recall("x", values[2], make) is not first[2]
    kept.start()
    last = kept.recall("x", values[3], make)
    assert len(kept) == 1
    assert kept.recall("x", values[3], make) is last


def test_views_of_one_memory_count_once():
    kept = KeptEncodings(limit=16)
    both = torch.zeros(4)
    kept.recall("x", torch.zeros(1), lambda pixels: (both[:3], both[1:]))
    assert len(kept) == 1
    kept.recall("x", torch.ones(1), lambda pixels: (torch.zeros(1),))
    assert len(kept) == 1
