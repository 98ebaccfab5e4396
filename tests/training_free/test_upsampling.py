import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.training_free.upsampling import EnlargedScores, edge_aware_upsample


def slow(maps, images, dilations, iterations, scale):
    """The equation, pixel by pixel."""
    fine = torch.nn.functional.interpolate(
        maps, size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    height, width = images.shape[-2:]
    for _ in range(iterations):
        new = torch.zeros_like(fine)
        for y in range(height):
            for x in range(width):
                places, weights = [], []
                for d in dilations:
                    for dy in (-d, 0, d):
                        for dx in (-d, 0, d):
                            if (dy, dx) != (0, 0):
                                v = min(max(y + dy, 0), height - 1)
                                u = min(max(x + dx, 0), width - 1)
                                gap = images[0, :, v, u] - images[0, :, y, x]
                                weights.append(-(gap**2).sum() / (2 * scale**2))
                                places.append((v, u))
                share = torch.softmax(torch.stack(weights), 0)
                new[0, :, y, x] = sum(
                    s * fine[0, :, v, u] for s, (v, u) in zip(share, places, strict=True)
                )
        fine = new
    return fine


def test_equals_the_plain_formula():
    torch.manual_seed(0)
    maps, images = torch.rand(1, 2, 3, 2), torch.rand(1, 3, 9, 8)
    fast = edge_aware_upsample(maps, images, dilations=(1, 3), iterations=2, colour_scale=0.3)
    assert torch.allclose(fast, slow(maps, images, (1, 3), 2, 0.3), atol=1e-5)


@settings(max_examples=20)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 100))
def test_any_size_stays_within_the_range_of_the_maps(height, width, seed):
    torch.manual_seed(seed)
    maps = torch.rand(1, 2, 3, 4)
    result = edge_aware_upsample(maps, torch.rand(1, 3, height, width))
    assert result.shape == (1, 2, height, width)
    assert result.min() >= maps.min() - 1e-5 and result.max() <= maps.max() + 1e-5


def test_the_border_follows_the_image_not_the_grid():
    image = torch.zeros(1, 3, 64, 64)
    image[..., 27:] = 1.0  # the edge lies inside a patch of 8
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 27:] = 1.0
    maps = torch.nn.functional.avg_pool2d(truth, 8)
    bilinear = torch.nn.functional.interpolate(maps, size=(64, 64), mode="bilinear")
    wrong_before = ((bilinear > 0.5) != (truth > 0.5)).sum()
    wrong = ((edge_aware_upsample(maps, image) > 0.5) != (truth > 0.5)).sum()
    assert wrong == 0 and wrong_before > 0


def test_batches_are_independent():
    torch.manual_seed(1)
    maps, images = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 16, 16)
    both = edge_aware_upsample(maps, images)
    assert torch.allclose(both[1:], edge_aware_upsample(maps[1:], images[1:]), atol=1e-6)


def test_unequal_numbers_are_refused():
    with pytest.raises(UsageError, match="2 stacks of maps for 1 images"):
        edge_aware_upsample(torch.rand(2, 1, 2, 2), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("size", [(9, 14), (3, 5), (2, 2)])
@pytest.mark.parametrize("log_odds", [True, False])
def test_scores_enlarged_class_by_class_are_those_of_all_at_once(size, log_odds):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 5, generator=generator) * 3
    full = torch.nn.functional.interpolate(values[None], size=size, mode="bilinear")[0]
    expected = full.sigmoid() if log_odds else full.clamp(0, 1)
    before = values.clone()
    scores = EnlargedScores(values, size, log_odds)
    assert scores.shape == (4, *size)
    for index in range(4):
        found = torch.from_numpy(scores[index])
        torch.testing.assert_close(found, expected[index], rtol=0, atol=1e-6)
    assert torch.equal(values, before)
    with pytest.raises(IndexError):
        scores[4]


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(UsageError, match="no numbers"):
        EnlargedScores(torch.full((1, 2, 2), torch.nan), (4, 4), log_odds=True)
