"""Datasets of which a split is read when somebody asks for it, and those of overlapping classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Dataset, Split, file_state, union
from piclip.errors import DatasetError, PiclipError
from piclip.formats.coco import drawn_mask
from piclip.io.extras import needs_extra

EntryT = TypeVar("EntryT")


class LazyDataset(Dataset, Generic[EntryT]):
    """Labelled images whose splits are read one by one; ``sources`` say which images they have."""

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        *,
        sources: Mapping[Split, Path],
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(name, class_names, **settings)
        self._sources = sources
        self._splits: dict[Split, Mapping[str, EntryT]] = {}

    @abstractmethod
    def _read_split(self, split: Split) -> Mapping[str, EntryT]:
        """What is known of each image of a split, by key."""

    def _keys(self, split: Split) -> Mapping[str, EntryT]:
        if split not in self._splits:
            images = self._read_split(split)
            for other, others in self._splits.items():
                if twice := images.keys() & others.keys():
                    raise DatasetError(
                        f"{self._sources[split]}: the image {min(twice)} is in the {other} split "
                        f"too; keep it in one, so that nothing is measured on what was learned "
                        f"from."
                    )
            self._splits[split] = images
        return self._splits[split]

    def _find(self, key: str) -> tuple[Split, EntryT]:
        """An image's split and what is known of it."""
        for split, source in self._sources.items():
            # A key may come before anybody asked for its split.
            if (split in self._splits or source.is_file()) and key in self._keys(split):
                return split, self._keys(split)[key]
        raise self._unknown_key(key)

    def _fingerprint(self, split: Split) -> Iterator[str]:
        yield file_state(self._sources[split])


class OverlappingDataset(LazyDataset[EntryT]):
    """Labelled images whose classes lie over one another: each has a mask of its own.

    It needs pycocotools (UsageError).
    """

    def __init__(self, name: str, class_names: Sequence[str], **settings: Any) -> None:  # noqa: ANN401
        with needs_extra("data", f"Reading {name}"):
            import pycocotools  # noqa: F401, PLC0415 - an extra
        super().__init__(name, class_names, **settings)

    @abstractmethod
    def _masks(self, key: str) -> dict[int, NDArray[np.bool_]]:
        """Where each class is that the image shows, one at least."""

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """1 where any class is, uint8 (H, W); `Sample.mask` knows which."""
        return union(self._masks(key))


def drawn_together(
    shapes: Iterable[object], size: tuple[int, int], where: str
) -> NDArray[np.bool_]:
    """All pixels of some segmentations in COCO's form, bool (H, W).

    Args:
        shapes: Lists of polygons x, y, x, y ..., or run lengths with their size.
        size: (height, width) of the image; a DatasetError where a shape is damaged or has another.
        where: The image and the class, for the error's sentence.
    """
    mask = np.zeros(size, dtype=np.bool_)
    for shape in shapes:
        try:
            mask |= drawn_mask({"segmentation": shape}, size, where).to_array()
        except PiclipError as error:
            raise DatasetError(str(error)) from error
    return mask
