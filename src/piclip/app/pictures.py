"""Pictures for the page: previews, thumbnails, and masks out of paint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import MaskError
from piclip.io.overlays import draw_overlay
from piclip.results import Segmentation

PREVIEW_PIXELS = 720
"""Longer side of what the page shows, small images enlarged: the slider must answer at once."""

THUMBNAIL_PIXELS = 240

_PAINTED = 64  # least opacity of paint; the brush leaves about 150, its soft border less


def fit_picture(image: Image.Image, longest: int) -> Image.Image:
    """The image as RGB with its longer side at ``longest`` pixels, enlarged if need be."""
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def fit_maps(maps: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Maps in [0, 1], float32 (C, h, w), resized to (height, width)."""
    height, width = size
    resized = [
        np.asarray(Image.fromarray(each).resize((width, height), Image.Resampling.BILINEAR))
        for each in maps
    ]
    return np.clip(np.stack(resized), 0, 1)


def labelled_thumbnail(
    image: Image.Image, mask: npt.NDArray[np.bool_], class_index: int
) -> Image.Image:
    """A labelled image, small, with its mask in the colour of class ``class_index`` (from 0)."""
    small = fit_picture(image, THUMBNAIL_PIXELS)
    marks = Image.fromarray(mask).resize(small.size, Image.Resampling.NEAREST)
    class_map = np.asarray(marks).astype(np.uint8) * np.uint8(class_index % 254 + 1)
    return draw_overlay(small, class_map, alpha=0.6)


def result_thumbnail(preview: Segmentation) -> Image.Image:
    """A result, small."""
    overlay = preview.overlay()
    overlay.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return overlay


def painted_mask(layers: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Image.Image:
    """Where anything was painted.

    Args:
        layers: RGBA, uint8 (H, W, 4), of the image's size.
        size: (height, width) of the image.

    Returns:
        A mask of 0 and 255, mode L.

    Raises:
        MaskError: Nothing was painted.
    """
    painted = np.zeros(size, dtype=bool)
    for layer in layers:
        if layer.shape == (*size, 4):
            painted |= layer[:, :, 3] >= _PAINTED
    if not painted.any():
        raise MaskError("Nothing is painted yet; paint over the object with the brush.")
    return Image.fromarray(painted * np.uint8(255))
