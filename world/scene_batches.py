"""Batches of labelled scenes, a pure function of (seed, stage, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.settings import CLIP_MEAN
from piclip.datasets.scenes import WORLD, Layout, make_scene
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world.world_model import PATCH

KINDS = 1 + len(CLASS_NAMES)
"""Ground and the classes, in the order of a class map."""
REUSE = 2
"""How often a drawn scene is shown (cropped, mirrored, recoloured) before a fresh one is drawn."""
POOL = 16
"""Steps' worth of scenes that are drawn at a time."""
ALONE = 0.25
"""Share of a batch in which one class is left and all else masked, as the published VVP does."""
CHOSEN = 16
"""Patches of an image that are compared with those of others."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image (H, W, 3) and its class map (H, W)."""


@dataclass(frozen=True)
class Stage:
    """One part of the curriculum.

    Attributes:
        steps: optimizer steps.
        batch: images in a step.
        layout: of the scenes; its size is the images' size.
    """

    steps: int
    batch: int
    layout: Layout


CURRICULUM = (
    Stage(500, 96, Layout(64, (1, 1), (32, 58), 2)),
    Stage(6000, 96, Layout(64, (1, 2), (20, 58), 3)),
    Stage(6000, 32, WORLD),
)


@dataclass(frozen=True)
class Batch:
    """Labelled images.

    Attributes:
        images: uint8 (B, H, W, 3).
        coverage: share of each patch that is ground and each class, (B, N, 1 + 20).
        chosen: numbers of patches to compare, each kind that is shown equally often, (B, K).
        whole: how many images come first that are not masked.
        window: (row, column) of the patch grid's place within the full grid of positions.
    """

    images: Tensor
    coverage: Tensor
    chosen: Tensor
    whole: int
    window: tuple[int, int]

    @property
    def words(self) -> Tensor:
        """Which classes the caption of each image names, bool (B, 20)."""
        return self.coverage[..., 1:].sum(dim=1) > 0.5


class Batches(torch.utils.data.IterableDataset[Batch]):
    """All batches from ``start`` to the end of the curriculum."""

    def __init__(self, seed: int, start: int = 0) -> None:
        self.seed, self.start = seed, start
        self._pool: tuple[tuple[int, int], list[Labelled]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Yields ``Batch`` objects in order."""
        step = 0
        for number, stage in enumerate(CURRICULUM):
            for within in range(stage.steps):
                if step >= self.start:
                    yield self._batch(number, stage, within)
                step += 1

    def _batch(self, number: int, stage: Stage, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, number, step, 1])
        pool = self._scenes(number, stage, step)
        shown = rng.choice(len(pool), stage.batch, replace=False)
        whole = round((1 - ALONE) * stage.batch)
        images, coverage, chosen = [], [], []
        for place, scene in enumerate(shown):
            image, class_map = _seen_anew(rng, *pool[scene])
            if place >= whole:
                image, class_map = _alone(rng, image, class_map)
            shares = _coverage(class_map)
            if place >= whole:
                shares = _as_objects(shares)
            images.append(image)
            coverage.append(shares)
            chosen.append(_choose(rng, shares, alone=place >= whole))
        free = (WORLD.size - stage.layout.size) // PATCH
        row, column = (int(v) for v in rng.integers(0, free + 1, 2))
        return Batch(
            torch.from_numpy(np.stack(images)),
            torch.from_numpy(np.stack(coverage)),
            torch.from_numpy(np.stack(chosen)),
            whole,
            (row, column),
        )

    def _scenes(self, number: int, stage: Stage, step: int) -> list[Labelled]:
        """The pool that belongs to this step."""
        key = (number, step // (POOL * REUSE))
        if self._pool is None or self._pool[0] != key:
            world = int(np.random.SeedSequence([self.seed, *key]).generate_state(1)[0])
            scenes = (make_scene(world, i, stage.layout) for i in range(POOL * stage.batch))
            self._pool = key, [(scene.image, scene.class_map) for scene in scenes]
        return self._pool[1]


def _seen_anew(
    rng: np.random.Generator, image: NDArray[np.uint8], class_map: NDArray[np.uint8]
) -> Labelled:
    """A random crop, scaled back, mirrored and with another brightness."""
    size = len(image)
    side = size * rng.uniform(0.7, 1.0)
    left, top = rng.uniform(0, size - side, 2)
    box = (left, top, left + side, top + side)
    image, class_map = (
        np.asarray(Image.fromarray(values).resize((size, size), how, box))
        for values, how in (
            (image, Image.Resampling.BILINEAR),
            (class_map, Image.Resampling.NEAREST),
        )
    )
    if rng.random() < 0.5:
        image, class_map = image[:, ::-1], class_map[:, ::-1]
    gain, offset = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
    levels = (np.arange(256) * gain + offset + 128 * (1 - gain)).clip(0, 255).astype(np.uint8)
    return np.asarray(levels[image]), class_map


def _alone(
    rng: np.random.Generator, image: NDArray[np.uint8], class_map: NDArray[np.uint8]
) -> Labelled:
    """One class that is shown, all else in the mean colour."""
    classes = np.unique(class_map[class_map > 0])
    if len(classes) == 0:  # the crop missed all objects
        return image, class_map
    kept = class_map == rng.choice(classes)
    mean = np.round(np.array(CLIP_MEAN) * 255).astype(np.uint8)
    return np.where(kept[..., None], image, mean), np.where(kept, class_map, 0).astype(np.uint8)


def _coverage(class_map: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of each patch that is each kind, (N, 1 + 20)."""
    side = len(class_map) // PATCH
    cells = class_map.reshape(side, PATCH, side, PATCH).transpose(0, 2, 1, 3).reshape(side**2, -1)
    index = cells.astype(np.int64) + KINDS * np.arange(side**2)[:, None]
    counts = np.bincount(index.ravel(), minlength=KINDS * side**2).reshape(side**2, KINDS)
    return np.asarray(counts / PATCH**2, dtype=np.float32)


def _as_objects(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Patches that are object by half count as object alone: VVP compares all of each of them."""
    return np.where(shares[:, :1] <= 0.5, np.eye(KINDS, dtype=np.float32)[_kinds(shares)], shares)


def _kinds(shares: NDArray[np.float32]) -> NDArray[np.int64]:
    """What each patch shows most; an object that fills half of it before the ground."""
    return np.asarray((shares - 1e-3 * (np.arange(KINDS) == 0)).argmax(axis=1))


def _choose(
    rng: np.random.Generator, shares: NDArray[np.float32], *, alone: bool
) -> NDArray[np.int64]:
    """Numbers of ``CHOSEN`` patches, each kind equally likely; no ground where it is masked."""
    kind = _kinds(shares)
    weights = 1 / np.bincount(kind, minlength=KINDS)[kind]
    if alone and (kind > 0).any():
        weights = weights * (kind > 0)
    return rng.choice(len(shares), CHOSEN, p=weights / weights.sum())
