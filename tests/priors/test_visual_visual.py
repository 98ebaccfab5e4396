"""VVP against the published code's outputs and against a slow formula."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.priors import mean_cosines, visual_visual_prior

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "priors_upstream.npz")


@pytest.mark.parametrize("case", ["s0_96x128", "s1_100x75"])
@pytest.mark.parametrize(("row", "layer"), [(0, "last"), (1, "prev")])
def test_similarity_is_the_published_one(case, row, layer):
    def golden(name):
        return torch.from_numpy(GOLDEN[f"{case}/vvp/{name}"])

    query = golden(f"q_hidden_{layer}")[None, 1:]
    support = golden(f"s_hidden_{layer}")[None, None, 1:]
    mask = golden("mask_grid").bool().flatten()[None, None]
    ours = visual_visual_prior(query, support, mask)
    assert ours.shape == (1, 1, 1, 36)
    torch.testing.assert_close(ours[0, 0, 0].view(6, 6), golden("sim")[row], atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 3),
    classes=st.integers(1, 3),
    shots=st.integers(1, 3),
    query_patches=st.integers(1, 7),
    support_patches=st.integers(1, 7),
)
def test_it_is_the_best_cosine_over_the_masked_patches(
    seed, images, classes, shots, query_patches, support_patches
):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(images, query_patches, 5, generator=generator)
    support = torch.randn(classes, shots, support_patches, 5, generator=generator)
    mask = torch.rand(classes, shots, support_patches, generator=generator) > 0.5
    ours = visual_visual_prior(query, support, mask)
    assert ours.shape == (images, classes, shots, query_patches)
    for b, c, k, i in np.ndindex(*ours.shape):
        cosines = [
            float(query[b, i] @ support[c, k, j] / (query[b, i].norm() * support[c, k, j].norm()))
            for j in range(support_patches)
            if mask[c, k, j]
        ]
        assert float(ours[b, c, k, i]) == pytest.approx(max(cosines, default=0.0), abs=1e-5)


def test_an_empty_mask_gives_zeros_and_negative_cosines_stay():
    query = torch.tensor([[[1.0, 0.0]]])
    support = torch.tensor([[[[-1.0, 0.0]], [[-1.0, 0.0]]]])
    mask = torch.tensor([[[True], [False]]])
    assert visual_visual_prior(query, support, mask).flatten().tolist() == [-1.0, 0.0]


def test_half_precision_tokens_give_float32_maps():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 16, generator=generator)
    support = torch.randn(1, 1, 4, 16, generator=generator)
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    ours = visual_visual_prior(query.bfloat16(), support.bfloat16(), mask)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, visual_visual_prior(query, support, mask), atol=2e-2, rtol=0)


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match="need a mask"):
        visual_visual_prior(
            torch.rand(1, 4, 3), torch.rand(1, 1, 4, 3), torch.ones(1, 4, dtype=torch.bool)
        )
    with pytest.raises(UsageError, match="as wide as"):
        visual_visual_prior(
            torch.rand(1, 4, 2), torch.rand(1, 1, 4, 3), torch.ones(1, 1, 4, dtype=torch.bool)
        )


def test_tokens_of_zeros_in_half_precision_have_cosines_of_zero():
    zeros, ones = torch.zeros(1, 2, 4).half(), torch.ones(1, 1, 3, 4).half()
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    assert not visual_visual_prior(zeros, ones, mask).any()
    assert not visual_visual_prior(ones[0], zeros[None], mask[..., :2]).any()


def test_supports_may_have_another_float_type_than_queries():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 16, generator=generator)
    support = torch.randn(1, 1, 4, 16, generator=generator).half()
    mask = torch.ones(1, 1, 4, dtype=torch.bool)
    ours = visual_visual_prior(query, support, mask)
    torch.testing.assert_close(ours, visual_visual_prior(query, support.float(), mask))


@pytest.mark.parametrize(("blocks", "supports"), [((2, 1), 1), ((0, 0), 1), ((1, 1), 0)])
def test_a_mean_of_nothing_is_refused(blocks, supports):
    queries, shown = ([torch.rand(1, 4, 3)] * blocks[0], [torch.rand(supports, 5, 3)] * blocks[1])
    with pytest.raises(
        UsageError, match=f"not {supports} supports and {blocks[0]} and {blocks[1]}"
    ):
        mean_cosines(queries, shown, torch.ones(supports, 5, dtype=torch.bool))


def test_a_mask_of_numbers_is_refused_for_it_would_pick_patches():
    with pytest.raises(UsageError, match=r"bool, not torch\.int64"):
        visual_visual_prior(torch.rand(1, 4, 3), torch.rand(1, 1, 4, 3), torch.ones(1, 1, 4).long())
