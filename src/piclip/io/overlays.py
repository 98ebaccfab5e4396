"""Colours for classes, and class maps drawn over images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from piclip.io.images import IGNORE

COLOURS: tuple[tuple[int, int, int], ...] = (
    # Okabe and Ito's seven colours, made for colour-blind readers ...
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (86, 180, 233), (230, 159, 0),
    (204, 121, 167),
    # ... continued by the colours farthest from all earlier ones in CIELAB as seen with normal,
    # protan and deutan vision (greedy choice; no pair is closer than 13 in any of the three).
    (0, 0, 255), (0, 255, 153), (102, 102, 255), (153, 0, 0), (102, 51, 102), (0, 255, 204),
    (102, 153, 255), (255, 51, 102), (153, 0, 51), (0, 51, 204), (255, 153, 102), (0, 102, 204),
    (255, 204, 255), (51, 204, 153), (255, 204, 102), (204, 51, 51), (255, 153, 204),
)  # fmt: skip
"""RGB of the classes in overlays, colour-blind safe; classes beyond the last start over."""


def voc_palette() -> list[int]:
    """PASCAL VOC's palette: 256 RGB triples in a row, for Pillow's ``putpalette``.

    The bits of an index are dealt out to red, green and blue in turn, highest bit first.
    """
    palette, indices = np.zeros((256, 3), dtype=np.int64), np.arange(256)
    for bit in range(8):
        palette[:, bit % 3] |= ((indices >> bit) & 1) << (7 - bit // 3)
    return palette.ravel().tolist()


def class_map_image(class_map: npt.NDArray[np.uint8]) -> Image.Image:
    """A class map, uint8 (H, W), as an image with PASCAL VOC's palette."""
    image = Image.fromarray(class_map)
    image.putpalette(voc_palette())
    return image


def draw_overlay(
    image: Image.Image, class_map: npt.NDArray[np.uint8], alpha: float = 0.5
) -> Image.Image:
    """An RGB image with the objects of a class map of its size tinted by class and outlined.

    Args:
        image: Any Pillow image.
        class_map: uint8 (H, W): 0 background, k the k-th class, 255 ignore (not drawn).
        alpha: Weight of the tint inside the objects, 0 (outlines only) to 1.
    """
    labels = np.where(class_map == IGNORE, 0, class_map).astype(np.uint8)
    colours = np.array([COLOURS[(k - 1) % len(COLOURS)] for k in range(256)], dtype=np.uint8)
    pixels = np.array(image.convert("RGB"))
    inside = labels > 0
    tint = colours[labels[inside]].astype(np.float32)
    pixels[inside] = np.round(pixels[inside] + alpha * (tint - pixels[inside])).astype(np.uint8)

    # A coloured line inside the object and a white one around it show on any ground.
    width = max(1, round(min(labels.shape) / 200))
    edge = _differs_nearby(labels, width)
    pixels[edge & inside] = colours[labels[edge & inside]]
    pixels[edge & ~inside] = 255
    return Image.fromarray(pixels)


def _differs_nearby(labels: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.bool_]:
    """Pixels with another label within ``width`` pixels (H, W); the frame is no edge."""
    size = 2 * width + 1
    greatest = ndimage.maximum_filter(labels, size=size, mode="nearest")
    least = ndimage.minimum_filter(labels, size=size, mode="nearest")
    return np.asarray(greatest != least)
