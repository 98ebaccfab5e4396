"""Images and masks for a CLIP that sees them plain, made smaller where they are too large."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from piclip.clip.features import Picture
from piclip.clip.preprocessing import object_patches

LONGEST = 640
"""Longest side of a plain image for CLIP, that of COCO; attention grows with its fourth power."""


def shrunk(image: NDArray[np.uint8]) -> Picture:
    """An image (H, W, 3), or float32 (3, h, w) in [0, 1] where it is too large for CLIP."""
    height, width = image.shape[:2]
    size = _shrunk_size(height, width)
    if size == (height, width):
        return image
    values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255.0
    return F.interpolate(values, size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def shrunk_mask(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) at the size of its `shrunk` image; no object is lost."""
    height, width = inside.shape
    size = _shrunk_size(height, width)
    if size == (height, width):
        return inside
    share = F.interpolate(torch.from_numpy(inside)[None, None].float(), size=size, mode="area")
    return np.asarray((object_patches(share[0, 0]) & (share[0, 0] > 0)).numpy())


def _shrunk_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
