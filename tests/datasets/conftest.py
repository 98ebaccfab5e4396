"""Small datasets for the tests of datasets: in memory, and in folders of tiny files."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from piclip.datasets.dataset import Dataset, FoldConvention, Split, fold_members


class MemoryDataset(Dataset):
    """Class maps from a dictionary; the picture is the class map, three times."""

    def __init__(
        self,
        maps: Mapping[Split, Mapping[str, NDArray[np.uint8]]],
        *,
        classes: int,
        folds: int = 4,
        convention: FoldConvention = "contiguous",
        minimum_pixels: int = 4,
        cache: Path | None = None,
    ) -> None:
        names = [f"thing {index}" for index in range(classes)]
        novel = fold_members(classes, folds, convention)
        super().__init__("toy", names, novel=novel, minimum_pixels=minimum_pixels, cache=cache)
        self.maps = maps
        self.counted = 0

    def _keys(self, split: Split) -> Mapping[str, NDArray[np.uint8]]:
        return self.maps[split]

    def image(self, key: str) -> NDArray[np.uint8]:
        return np.repeat(self._map(key)[..., None], 3, axis=2)

    def class_map(self, key: str) -> NDArray[np.uint8]:
        self.counted += 1
        return self._map(key)

    def _map(self, key: str) -> NDArray[np.uint8]:
        return {**self.maps["train"], **self.maps["val"]}[key]

    def _fingerprint(self, split: Split) -> Iterator[str]:
        return (self.maps[split][key].tobytes().hex() for key in self.maps[split])


def random_maps(seed: int, images: int, classes: int, prefix: str) -> dict[str, NDArray[np.uint8]]:
    """Maps (6, 7) with zero to three rectangles of classes or of pixels to ignore."""
    rng = np.random.default_rng([seed, len(prefix)])
    maps = {}
    for number in range(images):
        class_map = np.zeros((6, 7), dtype=np.uint8)
        for value in rng.choice([*range(1, classes + 1), 255], rng.integers(0, 4)):
            y, x = rng.integers(0, 5, 2)
            class_map[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = value
        maps[f"{prefix}{number}"] = class_map
    return maps


@pytest.fixture(scope="session")
def toy() -> Callable[..., MemoryDataset]:
    """Makes a `MemoryDataset` of random maps from a seed."""

    def make(seed: int = 0, images: int = 60, classes: int = 8, **options: object) -> MemoryDataset:
        maps = {
            "train": random_maps(seed, images, classes, "train"),
            "val": random_maps(seed, images, classes, "val"),
        }
        return MemoryDataset(maps, classes=classes, **options)

    return make


def save_png(values: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """images/, masks/ and classes.txt of eight images; image k shows class k % 2."""
    for number in range(8):
        class_map = np.zeros((50, 60), dtype=np.uint8)
        class_map[1:49, 1:50] = number % 2 + 1
        class_map[0] = 255
        save_png(class_map, tmp_path / "masks" / f"photo {number}.png")
        save_png(
            np.full((50, 60, 3), number, dtype=np.uint8),
            tmp_path / "images" / f"photo {number}.png",
        )
    (tmp_path / "classes.txt").write_text("cat\n\n garden gnome \n", encoding="utf-8")
    return tmp_path
