"""From the patch grid to pixels, along the edges of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from piclip.errors import UsageError

DILATIONS = (1, 2, 4, 8)
ITERATIONS = 6
COLOUR_SCALE = 0.07


@dataclass(frozen=True, eq=False)
class EnlargedScores:
    """Scores at the size of an image, made class by class, bilinearly, when they are asked for."""

    values: Tensor  # scores or log-odds on a coarser grid, (C, h, w), on the CPU
    size: tuple[int, int]  # (height, width) of the image
    log_odds: bool  # whether the values are log-odds

    def __post_init__(self) -> None:
        if not self.values.isfinite().all():
            raise UsageError("The model gave scores that are no numbers; take dtype='float32'.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.values), *self.size

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """The scores of a class, (H, W) in [0, 1]."""
        own = self.values[index][None, None]
        full = F.interpolate(own, size=self.size, mode="bilinear", align_corners=False)[0, 0]
        scores = full.sigmoid_() if self.log_odds else full.clamp_(0, 1)
        return np.asarray(scores.numpy())


def edge_aware_upsample(
    maps: Tensor,
    images: Tensor,
    *,
    dilations: tuple[int, ...] = DILATIONS,
    iterations: int = ITERATIONS,
    colour_scale: float = COLOUR_SCALE,
) -> Tensor:
    """Resizes maps bilinearly, then lets every pixel agree with its look-alikes nearby.

    Pixel-adaptive refinement (Araslanov and Roth, CVPR 2020): each iteration replaces a pixel by
    the mean of its 8 neighbours at every dilation, weighted by the softmax of
    ``-|colour difference|^2 / (2 colour_scale^2)``.

    Args:
        maps: Scores on the patch grid, (B, C, h, w).
        images: RGB in [0, 1], (B, 3, H, W).
        dilations: Distances of the neighbours in pixels.
        iterations: How often to repeat.
        colour_scale: Colour difference that still counts as the same surface.

    Returns:
        Scores at the images' size, (B, C, H, W), within the range of the input.

    Raises:
        UsageError: As many maps as images are needed.
    """
    if len(maps) != len(images):
        raise UsageError(f"There are {len(maps)} stacks of maps for {len(images)} images.")
    height, width = size = images.shape[-2:]
    fine = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    numbers = torch.arange(height * width, dtype=torch.float64, device=images.device)
    neighbours = _rows(_neighbours(numbers.view(1, 1, *size), dilations)[0]).int()
    found = []
    for values, likeness in zip(fine, _likeness(images, dilations, colour_scale), strict=True):
        own, shares = _rows(values), _rows(likeness)
        for _ in range(iterations):  # of all classes at once, which lie side by side in memory
            own = F.embedding_bag(neighbours, own, per_sample_weights=shares, mode="sum")
        found.append(own.mT.unflatten(1, size))
    return torch.stack(found)


def _rows(planes: Tensor) -> Tensor:
    """Planes (K, H, W) as a row per pixel, (H * W, K)."""
    return planes.flatten(1).mT.contiguous()


def _likeness(images: Tensor, dilations: tuple[int, ...], colour_scale: float) -> Tensor:
    """Weights of the neighbours of every pixel, summing to one, (B, 8n, H, W)."""
    difference = torch.zeros((), device=images.device)
    for channel in range(images.shape[1]):
        plane = images[:, channel : channel + 1]
        difference = difference + (_neighbours(plane, dilations) - plane) ** 2
    return torch.softmax(difference / (-2 * colour_scale**2), dim=1)


def _neighbours(plane: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The 8 neighbours of every pixel at every dilation, (B, 1, H, W) to (B, 8n, H, W)."""
    height, width = plane.shape[-2:]
    reach = max(dilations)
    padded = F.pad(plane, (reach, reach, reach, reach), mode="replicate")
    shifted = [
        padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        for distance in dilations
        for dy in (-distance, 0, distance)
        for dx in (-distance, 0, distance)
        if (dy, dx) != (0, 0)
    ]
    return torch.cat(shifted, dim=1)
