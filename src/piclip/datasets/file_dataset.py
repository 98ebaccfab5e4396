"""Datasets that lie in files: a picture and a class map per image, or a list that says them all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Dataset, Split, file_state, union
from piclip.errors import DatasetError, PiclipError
from piclip.formats.coco import drawn_mask
from piclip.formats.voc import read_class_map
from piclip.io.decoding import reason
from piclip.io.documents import read_text
from piclip.io.extras import needs_extra
from piclip.io.images import read_image

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
        # A key may come before anybody asked for its split.
        unread = (s for s, source in self._sources.items() if source.is_file())
        for split in chain(tuple(self._splits), unread):
            if key in self._keys(split):
                return split, self._keys(split)[key]
        raise self._unknown_key(key)

    def _fingerprint(self, split: Split) -> Iterator[str]:
        yield file_state(self._sources[split])


@dataclass(frozen=True)
class Files:
    """Where one labelled image lies."""

    image: Path
    mask: Path  # the class map, a PNG of one channel or with a palette


class FileDataset(LazyDataset[Files]):
    """Labelled images in files.

    ``files`` has the images by key, of every split that there is, and ``advice`` says what to do
    when somebody asks for another one; the rest is as in `Dataset`.

    Raises:
        DatasetError: An image is in both splits.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        *,
        files: Mapping[Split, Mapping[str, Files]],
        advice: str,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(name, class_names, sources={}, **settings)
        self._splits.update(files)
        self._advice = advice
        if twice := files.get("train", {}).keys() & files.get("val", {}).keys():
            raise DatasetError(
                f"{name}: the image {min(twice)} is in the train and in the val split; keep it in "
                f"one, so that nothing is measured on what was learned from."
            )

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""
        return np.array(read_image(self.files(key).image), dtype=np.uint8)

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W), checked for unknown values."""
        return read_class_map(self.files(key).mask, len(self.class_names))

    def files(self, key: str) -> Files:
        """Where an image lies."""
        return self._find(key)[1]

    def _read_split(self, split: Split) -> Mapping[str, Files]:
        raise DatasetError(f"{self.name} has no {split} split; {self._advice}.")

    def _fingerprint(self, split: Split) -> Iterator[str]:
        return (file_state(entry.mask) for entry in self._splits[split].values())


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


def by_key(entries: Iterable[tuple[str, Files]], source: Path) -> dict[str, Files]:
    """The images of a split by key; refuses a key that comes twice (DatasetError)."""
    files: dict[str, Files] = {}
    for key, entry in entries:
        if key in files:
            raise DatasetError(
                f"{source}: two images are called {key}; give every image a name of its own."
            )
        files[key] = entry
    return files


def read_lines(path: Path) -> list[str]:
    """Stripped lines of a text file that are not blank; DatasetError if it cannot be read."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({reason(error)}); check the folder.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


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
