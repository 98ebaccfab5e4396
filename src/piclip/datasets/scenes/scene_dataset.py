"""The built-in world as a dataset: scenes drawn when they are asked for, nothing stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Dataset, Sample, Split, fold_members
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.datasets.scenes.scene import IMAGE_SIZE, WORLD, Layout, Scene, make_scene
from piclip.errors import UsageError

# Worlds of their own: the captioned training and the benchmark's episodes draw from seeds of
# 32 bits, these have 65 and 66.
_WORLDS: dict[Split, int] = {"train": 1 << 64, "val": 1 << 65}
_SEEDS = 1 << 63

_MINIMUM_PIXELS = 64  # of 128 x 128
_SMALLEST, _LARGEST = 32, 1024
_PROBES = 4


class SceneDataset(Dataset):
    """Random scenes of the world's usual kind; keys are ``train-0`` and so on.

    A scene is a pure function of its key and the arguments. No scene is in both splits, in an
    episode of `piclip.datasets.scenes.scene_episodes` or in the training of the built-in CLIP. Fold
    i of the four holds back the classes 5i to 5i + 4 (from 0), as in PASCAL-5i.

    Args:
        train_images: Number of scenes of the train split.
        val_images: Number of scenes of the val split.
        size: Side of the scenes in pixels, 32 to 1024; objects grow with it.
        seed: Another seed makes another dataset.
        minimum_pixels: An image counts for a class from here on; None for 64 pixels of
            128 x 128, and in proportion to the area at other sizes.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        train_images: int = 2000,
        val_images: int = 1000,
        size: int = IMAGE_SIZE,
        seed: int = 0,
        minimum_pixels: int | None = None,
        cache: Path | None = None,
    ) -> None:
        if min(train_images, val_images) < 1:
            raise UsageError("A dataset of scenes needs 1 image or more in each split.")
        if not _SMALLEST <= size <= _LARGEST:
            raise UsageError(f"Scenes are {_SMALLEST} to {_LARGEST} pixels wide, not {size}.")
        if not 0 <= seed < _SEEDS:
            raise UsageError(f"The seed of scenes must be 0 to {_SEEDS - 1}, not {seed}.")
        scale = size / IMAGE_SIZE
        super().__init__(
            "scenes",
            CLASS_NAMES,
            novel=fold_members(len(CLASS_NAMES), 4, "contiguous"),
            minimum_pixels=minimum_pixels or max(1, round(_MINIMUM_PIXELS * scale**2)),
            cache=cache,
        )
        self.size, self.seed = size, seed
        low, high = WORLD.scale
        self._layout = Layout(size=size, scale=(scale * low, scale * high))
        self._images: dict[Split, int] = {"train": train_images, "val": val_images}

    def _keys(self, split: Split) -> Iterable[str]:
        return (f"{split}-{number}" for number in range(self._images[split]))

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (size, size, 3)."""
        return self._scene(key).image

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (size, size)."""
        return self._scene(key).class_map

    def _read(self, key: str) -> Sample:
        # Drawn once for both.
        scene = self._scene(key)
        return Sample(key, scene.image, scene.class_map)

    def _scene(self, key: str) -> Scene:
        match = re.fullmatch(r"(train|val)-(0|[1-9][0-9]*)", key)
        split: Split = "train" if key.startswith("train") else "val"
        if match is None or int(match[2]) >= self._images[split]:
            raise self._unknown_key(key)
        return make_scene(_WORLDS[split] + self.seed, int(match[2]), self._layout)

    def _fingerprint(self, split: Split) -> Iterator[str]:
        yield repr((self.seed, self._layout))
        # What was counted in scenes that were drawn otherwise is void.
        for key in self.keys(split)[:_PROBES]:
            yield hashlib.sha256(self.class_map(key).tobytes()).hexdigest()
