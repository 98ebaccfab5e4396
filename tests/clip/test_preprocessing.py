"""Input sizes, pixels and patch coverage against plain slow formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from piclip.clip.preprocessing import fit_size, mask_coverage, to_pixels
from piclip.errors import UsageError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))
grids = st.tuples(st.integers(1, 12), st.integers(1, 12))


@given(side=st.integers(1, 5000), patches=st.integers(2, 40), patch=st.integers(1, 32))
def test_a_square_image_gets_the_image_size(side, patches, patch):
    size = patches * patch
    assert fit_size(side, side, image_size=size, patch=patch) == (size, size)


@given(
    height=st.integers(1, 9000),
    width=st.integers(1, 9000),
    patches=st.integers(7, 40),
    patch=st.sampled_from([8, 14, 16, 32]),
)
def test_sizes_keep_the_aspect_and_the_area(height, width, patches, patch):
    rows, columns = (
        side / patch for side in fit_size(height, width, image_size=patches * patch, patch=patch)
    )
    assert rows == int(rows) >= 2
    assert columns == int(columns) >= 2
    aspect = min(max(width / height, 0.25), 4.0)
    # Each side is the wanted one up to the rounding to whole patches.
    assert abs(rows - patches / math.sqrt(aspect)) <= 0.5 + 1e-9
    assert abs(columns - patches * math.sqrt(aspect)) <= 0.5 + 1e-9
    assert 0.8 < rows * columns / patches**2 < 1.2
    turned = fit_size(width, height, image_size=patches * patch, patch=patch)
    assert turned == (columns * patch, rows * patch)


def test_known_sizes():
    assert fit_size(7, 900, image_size=224, patch=16) == (112, 448)
    assert fit_size(480, 640, image_size=480, patch=16) == (416, 560)
    assert fit_size(1, 1, image_size=224, patch=32) == (224, 224)
    assert fit_size(1, 5000, image_size=32, patch=16) == (32, 64)
    assert fit_size(7, 900, image_size=224, patch=16, max_aspect=1.0) == (224, 224)


@pytest.mark.parametrize(("size", "patch"), [(473, 16), (16, 16), (0, 16)])
def test_sizes_that_the_encoder_cannot_take(size, patch):
    with pytest.raises(UsageError, match=str(size)):
        fit_size(10, 10, image_size=size, patch=patch)


def test_pixels_are_normalised_and_not_resized_without_need():
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(values), (6, 9), MEAN, STD)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 6, 9)
    for c in range(3):
        expected = (values[:, :, c].astype(np.float64) / 255 - MEAN[c]) / STD[c]
        np.testing.assert_allclose(pixels[c].numpy(), expected, atol=1e-6)


def test_pixels_are_resized_by_pillows_bicubic():
    values = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    pixels = to_pixels(image, (16, 24), MEAN, STD)
    expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC)) / 255.0
    np.testing.assert_allclose(
        pixels.permute(1, 2, 0).numpy(), (expected - np.array(MEAN)) / np.array(STD), atol=1e-6
    )
    assert to_pixels(Image.new("RGB", (1, 1)), (32, 64), MEAN, STD).shape == (3, 32, 64)


def test_pixels_need_rgb():
    with pytest.raises(UsageError, match="RGBA"):
        to_pixels(Image.new("RGBA", (4, 4)), (4, 4), MEAN, STD)


def slow_coverage(mask, grid):
    """Cell by cell, pixel by pixel: the area of the overlap of two rectangles."""
    height, width = mask.shape
    cell_h, cell_w = height / grid[0], width / grid[1]
    coverage = np.zeros(grid)
    for i, j in np.ndindex(*grid):
        for y, x in np.argwhere(mask):
            overlap_y = min((i + 1) * cell_h, y + 1) - max(i * cell_h, y)
            overlap_x = min((j + 1) * cell_w, x + 1) - max(j * cell_w, x)
            coverage[i, j] += max(overlap_y, 0) * max(overlap_x, 0) / (cell_h * cell_w)
    return coverage


@pytest.mark.parametrize("shape", [(12, 18), (13, 17), (3, 2), (1, 1), (2, 23)])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1)])
def test_coverage_is_the_overlap_of_rectangles(shape, grid):
    mask = np.random.default_rng(0).random(shape) > 0.5
    coverage = mask_coverage(mask, grid)
    assert coverage.dtype == torch.float32
    np.testing.assert_allclose(coverage.numpy(), slow_coverage(mask, grid), atol=1e-6)
    torch.testing.assert_close(mask_coverage(torch.from_numpy(mask), grid), coverage)


@given(mask=masks, grid=grids)
def test_coverage_sums_to_the_area_of_the_object(mask, grid):
    coverage = mask_coverage(mask, grid)
    assert coverage.shape == grid
    assert 0 <= coverage.min() <= coverage.max() <= 1
    assert coverage.mean().item() == pytest.approx(mask.mean(), abs=1e-6)
    inverse = mask_coverage(~mask, grid)
    torch.testing.assert_close(coverage + inverse, torch.ones(grid))


@given(data=st.data(), grid=grids)
def test_no_pixel_is_lost(data, grid):
    shape = data.draw(st.tuples(st.integers(1, 900), st.integers(1, 900)))
    mask = np.zeros(shape, bool)
    mask[data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))] = True
    assert mask_coverage(mask, grid).max() > 0
