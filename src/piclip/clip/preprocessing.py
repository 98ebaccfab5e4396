"""From an image and its mask to what the encoder takes: pixels and patch coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from piclip.errors import UsageError

_MIN_PATCHES = 2

LEAST_COVERAGE = 0.5
"""A patch or pixel is object when the mask covers at least this share of it."""


def fit_size(
    height: int, width: int, *, image_size: int, patch: int, max_aspect: float = 4.0
) -> tuple[int, int]:
    """Choose the encoder's input size for an image: same aspect, about ``image_size**2`` pixels.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        image_size: Side of the input of a square image; a multiple of the patch.
        patch: Side of a patch in pixels.
        max_aspect: Longer images are squeezed to this ratio of the sides, so that a strip of
            7 x 900 still has patches in both directions.

    Returns:
        (height, width), multiples of the patch, at least two patches each.

    Raises:
        UsageError: ``image_size`` is no multiple of the patch, or smaller than two patches.
    """
    if image_size % patch != 0 or image_size < _MIN_PATCHES * patch:
        raise UsageError(
            f"The image size must be a multiple of the model's patch of {patch} pixels and at "
            f"least {_MIN_PATCHES * patch}, but it is {image_size}."
        )
    patches = image_size // patch
    aspect = min(max(width / height, 1 / max_aspect), max_aspect)
    rows = max(_MIN_PATCHES, round(patches / math.sqrt(aspect)))
    columns = max(_MIN_PATCHES, round(patches * math.sqrt(aspect)))
    return rows * patch, columns * patch


def to_pixels(
    image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Resize an image (bicubic) and normalise its channels: ``(x / 255 - mean) / std``.

    Args:
        image: RGB image.
        size: (height, width) of the result; the image's own size is left as it is.
        mean: Mean of each channel, on the scale [0, 1].
        std: Standard deviation of each channel, on the scale [0, 1].

    Returns:
        float32 tensor (3, h, w).

    Raises:
        UsageError: The image is not RGB.
    """
    if image.mode != "RGB":
        raise UsageError(f"The encoder takes RGB images, not {image.mode}; use piclip's reader.")
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255.0
    shape = (3, 1, 1)
    return ((values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)).contiguous()


def patch_grid(pixels: Tensor, patch: int) -> tuple[int, int]:
    """The grid (h, w) of the patches of ``patch`` pixels a side in images (B, 3, H, W).

    Raises:
        UsageError: Pixels of another shape, or H or W is no multiple of the patch.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise UsageError(
            f"The encoder takes pixels of shape (batch, 3, height, width), not "
            f"{tuple(pixels.shape)}."
        )
    height, width = pixels.shape[-2:]
    if height % patch or width % patch:
        raise UsageError(
            f"Height and width must be multiples of the model's patch of {patch} pixels, but "
            f"the image is {height} x {width}; resize it first."
        )
    return height // patch, width // patch


def mask_coverage(mask: npt.NDArray[np.bool_] | Tensor, grid: tuple[int, int]) -> Tensor:
    """Fraction of each patch cell that the object covers, by exact box integration.

    The mask is a function that is constant on each pixel; cell (i, j) is the integral of it over
    the cell's rectangle, divided by the cell's area. Sizes need not be multiples of each other,
    and no object is lost however small.

    Args:
        mask: Bool mask (H, W).
        grid: (h, w) of the patch grid.

    Returns:
        float32 tensor (h, w) in [0, 1]; its mean is the object's share of the image.
    """
    values = torch.as_tensor(mask).to(torch.float64)
    rows = _overlap(values.shape[0], grid[0])
    columns = _overlap(values.shape[1], grid[1])
    return (rows @ values @ columns.T).clamp(0.0, 1.0).to(torch.float32)


def object_patches(coverage: Tensor) -> Tensor:
    """Which patches are object: those whose share of it is half, or else the best ones; bool."""
    return coverage >= min(LEAST_COVERAGE, float(coverage.max()))


def object_pixels(share: Tensor) -> Tensor:
    """Which pixels of a support are kept: those half object, or else any that are; bool."""
    inside = share >= LEAST_COVERAGE
    return inside if inside.any() else share > 0


def _overlap(pixels: int, cells: int) -> Tensor:
    """Share of each cell that each pixel fills along one side: float64 (cells, pixels)."""
    # In units in which both a pixel and a cell have whole lengths, so that the overlaps are exact.
    cell_start = torch.arange(cells, dtype=torch.float64)[:, None] * pixels
    pixel_start = torch.arange(pixels, dtype=torch.float64)[None, :] * cells
    end = torch.minimum(cell_start + pixels, pixel_start + cells)
    return (end - torch.maximum(cell_start, pixel_start)).clamp(min=0.0) / pixels
