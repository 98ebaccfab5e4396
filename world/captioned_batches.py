"""Batches of captioned scenes, a pure function of (seed, part, stage, step): no mask is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.datasets.scenes import WORLD, Layout, Scene, make_scene
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world.world_model import PATCH

REUSE = {"scene": 4, "tile": 8}
"""How often a drawn scene is shown (cropped, flipped, recoloured) before a fresh one is drawn."""
PARTS = 2
"""A step's images are drawn in so many parts, each of which a process of its own may learn from."""
Example = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""An image (H, W, 3) and which classes its caption names (20,)."""

POOL = 16
"""Steps' worth of scenes that are drawn at a time."""


@dataclass(frozen=True)
class Stage:
    """One stretch of the curriculum.

    Attributes:
        steps: optimizer steps.
        batch: images in a part of a step; half are single scenes, half mosaics of 2 x 2 scenes.
        scene: layout of the single scenes; its size is the images' size.
        tile: layout of a mosaic's cells, which are scaled to half the images' size.
        guess: whether the model learns from its own guess, which is worth nothing at first.
    """

    steps: int
    batch: int
    scene: Layout
    tile: Layout
    guess: bool


_LARGE = Layout(64, (1, 1), (32, 58), 2)
_PART = Layout(64, (1, 2), (20, 58), 3)

CURRICULUM = (
    Stage(300, 96, _LARGE, _LARGE, guess=False),
    Stage(200, 96, _PART, _PART, guess=False),
    Stage(500, 96, _PART, _PART, guess=True),
    Stage(700, 48, Layout(96, (1, 3), (20, 70), 4), _PART, guess=True),
    Stage(1400, 32, WORLD, _PART, guess=True),
)


@dataclass(frozen=True)
class Batch:
    """Captioned images.

    Attributes:
        images: uint8 (B, H, W, 3); the second half are mosaics.
        words: bool (B, 4, 20): which classes the caption of each cell (top left, top right, bottom
            left, bottom right) names. A single scene has one caption, repeated.
        window: (row, column) of the patch grid's place within the full grid of positions.
        roll: patches by which the mosaics are rolled down and right, around the edges: their cells
            meet anywhere, so that no border in the middle of an image is learned.
        guess: whether the model learns from its own guess.
    """

    images: Tensor
    words: Tensor
    window: tuple[int, int]
    roll: tuple[int, int]
    guess: bool


class Batches(torch.utils.data.IterableDataset[Batch]):
    """One part of all batches from ``start`` to the end of the curriculum."""

    def __init__(self, seed: int, part: int = 0, start: int = 0) -> None:
        self.seed, self.part, self.start = seed, part, start
        self._pools: dict[tuple[int, str, int], list[Example]] = {}

    def __iter__(self) -> Iterator[Batch]:
        """Yields ``Batch`` objects in order."""
        step = 0
        for number, stage in enumerate(CURRICULUM):
            for within in range(stage.steps):
                if step >= self.start:
                    yield self._batch(number, stage, within)
                step += 1

    def _batch(self, number: int, stage: Stage, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, self.part, number, step, 1])
        half = stage.batch // 2
        singles = self._draw(rng, number, "scene", stage.scene, step, half)
        tiles = self._draw(rng, number, "tile", stage.tile, step, 4 * half)
        size = stage.scene.size
        down, right = (int(v) for v in rng.integers(0, size // PATCH, 2))
        images = [image for image, _ in singles]
        words = [np.repeat(named[None], 4, 0) for _, named in singles]
        for cell in range(0, len(tiles), 4):
            mosaic = _mosaic([image for image, _ in tiles[cell : cell + 4]], size)
            images.append(np.roll(mosaic, (down * PATCH, right * PATCH), axis=(0, 1)))
            words.append(np.stack([named for _, named in tiles[cell : cell + 4]]))
        free = (WORLD.size - size) // PATCH
        row, column = (int(v) for v in rng.integers(0, free + 1, 2))
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(words)),
            (row, column),
            (down, right),
            stage.guess,
        )

    def _draw(
        self,
        rng: np.random.Generator,
        number: int,
        kind: str,
        layout: Layout,
        step: int,
        count: int,
    ) -> list[Example]:
        """``count`` examples out of the pool that belongs to this step."""
        pool_size = POOL * count
        key = (number, kind, step // (POOL * REUSE[kind]))
        if key not in self._pools:
            for old in [k for k in self._pools if k[1] == kind]:
                del self._pools[old]
            entropy = [self.seed, self.part, number, kind == "tile", key[2]]
            world = int(np.random.SeedSequence(entropy).generate_state(1)[0])
            self._pools[key] = [
                (scene.image, _words(scene))
                for scene in (make_scene(world, i, layout) for i in range(pool_size))
            ]
        pool = self._pools[key]
        return [
            (_seen_anew(rng, pool[i][0]), pool[i][1])
            for i in rng.choice(pool_size, count, replace=False)
        ]


def _words(scene: Scene) -> NDArray[np.bool_]:
    """Which classes the caption names, bool (20,)."""
    return np.array([f" {name}" in scene.caption for name in CLASS_NAMES])


def _seen_anew(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A random crop, scaled back, mirrored and with another brightness, uint8 (H, W, 3)."""
    size = len(image)
    side = size * rng.uniform(0.8, 1.0)
    left, top = rng.uniform(0, size - side, 2)
    box = (left, top, left + side, top + side)
    picture = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box)
    image = np.asarray(picture)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    levels = (np.arange(256) * gain + offset + 128 * (1 - gain)).clip(0, 255).astype(np.uint8)
    return np.asarray(levels[image])


def _mosaic(tiles: list[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """Four tiles as one image, uint8 (size, size, 3)."""
    half = (size // 2, size // 2)
    one, two, three, four = (
        np.asarray(Image.fromarray(tile).resize(half, Image.Resampling.BOX)) for tile in tiles
    )
    return np.concatenate([np.concatenate([one, two], 1), np.concatenate([three, four], 1)])
