"""Attention that follows the classes, learned from captions.

Refinement spreads a map along the attention between patches, so patches of one class should look
at each other. Nobody tells which those are: the model guesses, and learns from its guess.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.priors import transition_matrix
from piclip.training_free.upsampling import edge_aware_upsample

SHARPEN = 20.0
GROUND_SCORE = 0.66
"""A class must reach this share of its best score in the image to win a patch from the ground."""
EDGE_SCALE, EDGE_DILATIONS, EDGE_ITERATIONS = 0.5, (1, 2, 4, 8), 6


def cells(patches: Tensor, roll: tuple[int, int]) -> Tensor:
    """The patches of the four cells of each mosaic, (B, 4, N / 4, E).

    Single scenes are cut alike; nothing that is computed of them depends on the order.
    """
    count, number, width = patches.shape
    half = int(number**0.5) // 2
    down, right = roll
    grid = patches.reshape(count, 2 * half, 2 * half, width).roll((-down, -right), dims=(1, 2))
    quarters = grid.reshape(count, 2, half, 2, half, width)
    return quarters.transpose(2, 3).reshape(count, 4, half * half, width)


def patches(quarters: Tensor, roll: tuple[int, int]) -> Tensor:
    """Undoes ``cells``: (B, 4, N / 4, E) to (B, N, E)."""
    count, _, number, width = quarters.shape
    half = int(number**0.5)
    grid = quarters.reshape(count, 2, 2, half, half, width).transpose(2, 3)
    return grid.reshape(count, 2 * half, 2 * half, width).roll(roll, dims=(1, 2)).flatten(1, 2)


def affinity_loss(attention: Tensor, guess: Tensor) -> Tensor:
    """Asks patches to attend to patches that the model itself gives the same class.

    Without it the late blocks' attention collects in a few patches, and refinement, which spreads
    a map along it, blurs instead of completing: ``-log sum_j A_ij p_i . p_j``, patches that look
    like objects and patches that look like ground counting equally, and every block by itself, so
    that none leaves it to another.

    Args:
        attention: of M blocks, (B, M, N, N), rows sum to one.
        guess: class of each patch, ground first, (B, N, 1 + C), rows sum to one.
    """
    alike = (attention * (guess @ guess.transpose(1, 2))[:, None]).sum(dim=-1)
    loss = -torch.log(alike + 1e-4).mean(dim=1)
    thing = 1 - guess[..., 0]
    return ((loss * thing).sum() / thing.sum() + (loss * guess[..., 0]).mean()) / 2


def guess_classes(images: Tensor, attention: Tensor, presence: Tensor, words: Tensor) -> Tensor:
    """Which class the model itself gives each patch, ground first, (B, N, 1 + C).

    The score of a class that the caption names is its presence, times what refinement makes of it,
    aligned with the edges of the image; of the classes and a constant for the ground the highest
    wins, softly. So the guess is better than what the patches say by themselves, and the attention
    that learns from it gets better than the attention that made it.

    Args:
        images: uint8 (B, H, W, 3).
        attention: (B, N, N).
        presence: probability of each class, (B, N, C).
        words: classes that the caption of each patch's cell names, bool (B, N, C).
    """
    presence = presence * words
    transition = transition_matrix(attention)
    maps = (presence * (transition @ (transition @ presence))).sqrt()
    side = int(maps.shape[1] ** 0.5)
    maps = maps.transpose(1, 2).unflatten(2, (side, side))
    scores = _aligned(maps, images, words.any(dim=1)).flatten(2).transpose(1, 2)
    scores = scores / scores.amax(dim=1, keepdim=True).clamp_min(1e-6)
    scores = scores.masked_fill(~words, -torch.inf)
    ground = torch.full_like(scores[..., :1], GROUND_SCORE)
    return (SHARPEN * torch.cat([ground, scores], dim=-1)).softmax(dim=-1)


def _aligned(maps: Tensor, images: Tensor, named: Tensor) -> Tensor:
    """Maps (B, C, h, w) of the classes ``named`` (B, C), drawn to the edges of the images."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = F.interpolate(pixels, scale_factor=EDGE_SCALE, mode="area")
    aligned = torch.zeros_like(maps)
    for image, of_image in enumerate(named):
        fine = edge_aware_upsample(
            maps[image, of_image][None],
            pixels[image, None],
            dilations=EDGE_DILATIONS,
            iterations=EDGE_ITERATIONS,
        )
        aligned[image, of_image] = F.adaptive_avg_pool2d(fine[0], maps.shape[-1])
    return aligned
