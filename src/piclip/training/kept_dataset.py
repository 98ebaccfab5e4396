"""Keeps the samples of a dataset in memory, for small ones that are costly to read or to draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Dataset, Sample, Split


class KeptDataset:
    """A dataset whose samples are read once in each process.

    Args:
        dataset: The dataset; everything but ``sample`` is its own.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._samples: dict[str, Sample] = {}

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.dataset.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The dataset's classes."""
        return self.dataset.class_names

    @property
    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """The dataset's synonyms."""
        return self.dataset.synonyms

    @property
    def minimum_pixels(self) -> int:
        """The dataset's rule of which image counts."""
        return self.dataset.minimum_pixels

    def keys(self, split: Split) -> tuple[str, ...]:
        """The dataset's images."""
        return self.dataset.keys(split)

    def sample(self, key: str) -> Sample:
        """One image with its class map; must not be changed."""
        if key not in self._samples:
            self._samples[key] = self.dataset.sample(key)
        return self._samples[key]

    def presence(self, split: Split) -> Mapping[str, NDArray[np.int64]]:
        """The dataset's counts."""
        return self.dataset.presence(split)

    def folds(self) -> int:
        """The dataset's number of folds."""
        return self.dataset.folds()

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """The dataset's novel classes."""
        return self.dataset.novel_classes(fold)
