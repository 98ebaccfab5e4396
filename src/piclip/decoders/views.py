"""How a decoder sees an image: an affine view of it, the same for its labels and prior maps.

A CLIP may see it plain instead, made smaller where it is too large (`shrunk`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from piclip.clip.features import Picture
from piclip.clip.preprocessing import object_patches
from piclip.io.images import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

LONGEST = 640
"""Longest side of a plain image for CLIP, that of COCO; attention grows with its fourth power."""

_POINTS = 1000  # pixels of the object that tell how much of it a view keeps
_BLUR = (5, 1.1)  # side and sigma of the kernel; OpenCV's default sigma for this side


@dataclass(frozen=True, eq=False)
class View:
    """Where each pixel of the result lies in the image.

    ``theta``, float64 (2, 3), leads from the result's coordinates (x, y, 1) to the image's, both in
    [-1, 1] from edge to edge, as `torch.nn.functional.affine_grid` takes it.
    """

    theta: Tensor
    size: int  # side of the result in pixels
    blur: bool = False

    def image(self, image: NDArray[np.uint8]) -> Tensor:
        """A uint8 image (H, W, 3) seen so: float32 (3, S, S) in [0, 1], ImageNet's mean around."""
        mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) / 255.0
        seen = self._sample(values - mean, "bilinear") + mean
        return _blurred(seen) if self.blur else seen

    def labels(self, labels: NDArray[np.uint8]) -> Tensor:
        """Labels (H, W) seen so: uint8 (S, S), nearest, 255 around."""
        values = torch.from_numpy(np.ascontiguousarray(labels))[None].float()
        seen = self._sample(values - IGNORE, "nearest")[0] + IGNORE
        return seen.round().to(torch.uint8)

    def maps(self, maps: Tensor) -> Tensor:
        """Maps (C, h, w) that cover the image, of any grid, seen so: (C, S, S), zero around."""
        return self._sample(maps, "bilinear")

    def kept(self, labels: NDArray[np.bool_]) -> float:
        """Share of an object, bool (H, W), that is inside the result; 1 for no object."""
        rows, columns = np.nonzero(labels)
        if not len(rows):
            return 1.0
        step = -(-len(rows) // _POINTS)
        places = self._places(rows[::step], columns[::step], labels.shape)
        return float((np.abs(places) <= 1).all(axis=0).mean())

    def touched(self, labels: NDArray[np.bool_]) -> Tensor:
        """The pixels that an object, bool (H, W), falls on, bool (S, S); none is left out."""
        rows, columns = np.nonzero(labels)
        places = self._places(rows, columns, labels.shape)
        places = places[:, (np.abs(places) <= 1).all(axis=0)]
        x, y = np.minimum((places + 1) / 2 * self.size, self.size - 1).astype(int)
        touched = torch.zeros(self.size, self.size, dtype=torch.bool)
        touched[y, x] = True
        return touched

    def _places(
        self, rows: NDArray[np.intp], columns: NDArray[np.intp], size: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Where pixels of the image lie in the result, (x, y) in [-1, 1] inside, (2, P)."""
        height, width = size
        points = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1])
        theta = self.theta.numpy()
        return np.asarray(np.linalg.solve(theta[:, :2], points - theta[:, 2:]))

    def _sample(self, values: Tensor, mode: str) -> Tensor:
        size = [1, len(values), self.size, self.size]
        grid = F.affine_grid(self.theta[None], size, align_corners=False)
        grid = grid.to(device=values.device, dtype=values.dtype)
        sampled: Tensor = F.grid_sample(values[None], grid, mode=mode, align_corners=False)[0]
        return sampled


def whole_view(height: int, width: int, size: int) -> View:
    """All of an image, its longer side as long as the result; not augmented."""
    return affine_view(height, width, size, scale=size / max(height, width))


def affine_view(
    height: int,
    width: int,
    size: int,
    *,
    scale: float,
    angle: float = 0.0,
    mirror: bool = False,
    offset: tuple[float, float] = (0.0, 0.0),
) -> View:
    """A view of an image (H, W) that was scaled, rotated, mirrored and cropped, in this order.

    The scale is pixels of the result, a square of the side ``size``, per pixel of the image; the
    angle, about the image's centre, is in radians; the offset is where the result's centre lies in
    the scaled image, in pixels (x, y) from its centre.
    """
    # From the result to the image, each step is undone, the last one first.
    crop = np.array([[size / 2, 0, offset[0]], [0, size / 2, offset[1]], [0, 0, 1]])
    flip = np.diag([-1.0 if mirror else 1.0, 1.0, 1.0])
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shrink = np.diag([2 / (width * scale), 2 / (height * scale), 1.0])
    return View(torch.from_numpy((shrink @ turn @ flip @ crop)[:2]), size)


def normalise(images: Tensor) -> Tensor:
    """ImageNet's normalisation of images in [0, 1], (..., 3, H, W)."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (images - mean) / std


def laid_back(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (C, S, S) of a whole view, bilinearly over the image's own pixels, (C, H, W)."""
    square = torch.eye(3, dtype=torch.float64)
    square[:2] = whole_view(*size, maps.shape[-1]).theta
    back = torch.linalg.inv(square)[:2].float()
    grid = F.affine_grid(back[None], [1, 2, *size], align_corners=False)
    own: Tensor = F.grid_sample(
        maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return own[0]


def shrunk(image: NDArray[np.uint8]) -> Picture:
    """An image (H, W, 3), or float32 (3, h, w) in [0, 1] where it is too large for CLIP."""
    size = _shrunk_size(*image.shape[:2])
    if size == image.shape[:2]:
        return image
    values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255.0
    return F.interpolate(values, size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def shrunk_mask(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask (H, W) at the size of its `shrunk` image; no object is lost."""
    size = _shrunk_size(*inside.shape)
    if size == inside.shape:
        return inside
    share = F.interpolate(torch.from_numpy(inside)[None, None].float(), size=size, mode="area")
    return np.asarray((object_patches(share[0, 0]) & (share[0, 0] > 0)).numpy())


def _shrunk_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _blurred(image: Tensor) -> Tensor:
    side, sigma = _BLUR
    steps = torch.arange(side, dtype=torch.float32) - side // 2
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, side)
    padded = F.pad(image[None], [side // 2] * 4, mode="replicate")
    rows = F.conv2d(padded, weights, groups=3)
    return F.conv2d(rows, weights.mT, groups=3)[0]
