"""Colours, light and cluttered ground of the built-in world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from piclip.datasets.scenes.glyphs import CLUTTER_GLYPHS, glyph

_SIDES = 4, 32  # of a distracting shape, in pixels


def rgb(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    """HSV (degrees, [0, 1], [0, 1]) to RGB in [0, 1], float32 (3,)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    channels = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return np.asarray(channels, dtype=np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> NDArray[np.float32]:
    """Smooth noise of about ``cells`` bumps a side, float32 (H, W) in about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def stripes(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Parallel light and dark bands, float32 (H, W)."""
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(4, 12)
    x = np.arange(shape[1], dtype=np.float32) * np.float32(np.cos(angle) * frequency)
    y = np.arange(shape[0], dtype=np.float32) * np.float32(np.sin(angle) * frequency)
    return np.asarray(np.float32(rng.uniform(0.05, 0.2)) * np.sin(x + y[:, None]))


def ground(rng: np.random.Generator, size: int, clutter: int) -> NDArray[np.float32]:
    """Textured ground with at most ``clutter`` shapes on it, float32 (size, size, 3) in [0, 1]."""
    first = rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.55), rng.uniform(0.2, 0.95))
    second = rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.55), rng.uniform(0.2, 0.95))
    mix = 0.5 + 0.5 * noise(rng, (size, size), int(rng.integers(1, 6)))
    fine = noise(rng, (size, size), int(rng.integers(8, 32))) * rng.uniform(0, 0.12)
    if rng.random() < 0.3:
        fine = fine + stripes(rng, (size, size))
    bare = first + mix[..., None] * (second - first) + fine[..., None]
    page = Image.fromarray((bare * 255).clip(0, 255).astype(np.uint8))
    _scatter(rng, page, clutter)
    return np.asarray(page, dtype=np.float32) / 255.0


def _scatter(rng: np.random.Generator, page: Image.Image, most: int) -> None:
    """Draws up to ``most`` distracting shapes."""
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(0, most + 1))):
        colour = rgb(rng.uniform(0, 360), rng.uniform(0.1, 0.8), rng.uniform(0.3, 1.0))
        fill = tuple(int(v * 255) for v in colour)
        x, y = (int(v) for v in rng.uniform(0, page.width, 2))
        w, h = (int(v) for v in rng.uniform(*_SIDES, 2))
        kind = rng.integers(4)
        if kind == 0:
            draw.rectangle((x, y, x + w, y + h), fill=fill)
        elif kind == 1:
            draw.line((x, y, x + 2 * w - h, y + h), fill=fill, width=int(rng.integers(1, 4)))
        elif kind == 2:
            draw.ellipse((x, y, x + w // 2, y + h), outline=fill, width=2)
        else:
            letter = glyph(str(rng.choice(list(CLUTTER_GLYPHS)))).ink
            turned = letter.rotate(rng.uniform(0, 360), expand=True).resize((w + 6, w + 6))
            page.paste(fill, (x - w // 2, y - w // 2), turned)


def camera(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Uneven light and sensor noise; uint8 (H, W, 3)."""
    size = canvas.shape[0]
    light = 1.0 + rng.uniform(0, 0.2) * noise(rng, (size, size), 1)
    grain = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
    picture = canvas * light[..., None] + grain
    return np.asarray((picture * 255).clip(0, 255), dtype=np.uint8)
