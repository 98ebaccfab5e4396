"""The shapes of the built-in world: glyphs of the DejaVu Sans font that ships with matplotlib.

A glyph becomes a *silhouette* (its outline, closed and filled: where the object is) and its *ink*
(the lines that are drawn on the object's body).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

CLASS_GLYPHS: dict[str, str] = {
    "airplane": "\u2708",
    "anchor": "\u2693",
    "arrow": "\u2794\u2799\u279c\u27a1\u27a4\u27a5\u27a8\u27a9\u27aa",
    "cat": "\U0001f638\U0001f63a\U0001f63b\U0001f63c\U0001f63e\U0001f640\U0001f431",
    "cloud": "\u2601",
    "cup": "\u2615",
    "dice": "\u2680\u2681\u2682\u2683\u2684\u2685",
    "envelope": "\u2709",
    "face": "\u2639\u263a\u263b\U0001f600\U0001f60d\U0001f60e\U0001f610\U0001f622\U0001f632",
    "flag": "\u2690\u2691",
    "flower": "\u273f\u2740\u273e\u2741\u2743\u2749",
    "hand": "\u261a\u261b\u261c\u261d\u261e\u261f\u270c",
    "heart": "\u2665\u2661\u2764\u2765",
    "horse": "\u265e\u2658",
    "moon": "\u263d\u263e",
    "scissors": "\u2701\u2702\u2703\u2704",
    "skull": "\u2620",
    "star": "\u2605\u2606\u2729\u272b\u272d\u272f",
    "telephone": "\u260e\u260f",
    "umbrella": "\u2602\u2614",
}
CLASS_NAMES: tuple[str, ...] = tuple(CLASS_GLYPHS)

CLUTTER_GLYPHS = "ABEFGHKMNPRSTXYZaegkmsxyz23456789&@#%?\u00a7\u00b6\u0398\u03a8\u03a9\u2211\u221e"

GLYPH_SIDE = 96
"""Longest side of a stored glyph in pixels; a margin of ``MARGIN`` is added all round."""
MARGIN = 8


@dataclass(frozen=True)
class Glyph:
    """One drawn shape."""

    silhouette: Image.Image  # where the object is, 8-bit gray image, 255 inside
    ink: Image.Image  # the lines on its body, 8-bit gray image of the same size, 255 on a line


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # noqa: PLC0415 - only the folder of its fonts is needed

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), 160)


def _draw(character: str) -> NDArray[np.float32]:
    """The ink of one character, cropped and scaled to ``GLYPH_SIDE``; (h, w) in [0, 1]."""
    font = _font()
    left, top, right, bottom = (int(v) for v in font.getbbox(character))
    image = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(image).text((4 - left, 4 - top), character, font=font, fill=255)
    image = image.crop(image.getbbox())
    scale = GLYPH_SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    ink = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32)
    return np.pad(ink / 255.0, MARGIN)


@lru_cache(maxsize=512)
def glyph(character: str) -> Glyph:
    """Draws one character of DejaVu Sans as a filled object; cached."""
    ink = _draw(character)
    # Thin outlines get gaps when they shrink; a closed outline encloses the object's body.
    solid = ndimage.binary_closing(ink > 0.4, iterations=3)
    solid = ndimage.binary_dilation(ndimage.binary_fill_holes(solid), iterations=4)
    silhouette = ndimage.gaussian_filter(solid.astype(np.float32), 0.7)
    return Glyph(_to_image(silhouette), _to_image(ink * silhouette))


def _to_image(values: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.round(values * 255).clip(0, 255).astype(np.uint8))
