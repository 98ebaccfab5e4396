"""What a dataset is: labelled images by key, who shows what, and folds of novel classes.

Class maps are uint8 (H, W): 0 is background, value ``i + 1`` is class index ``i`` (the place in
``class_names``), 255 is to be ignored.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from piclip.errors import DatasetError, OutputError, UsageError
from piclip.io.images import IGNORE
from piclip.io.outputs import atomic_path

Split: TypeAlias = Literal["train", "val"]
FoldConvention: TypeAlias = Literal["interleaved", "contiguous"]

MOST_CLASSES = 254  # values 1 to 254 of a class map
_PRESENCE_FORMAT = "presence 1"
MINIMUM_PIXELS = 2048  # 2 x 32 x 32, the rule of PASCAL-5i and COCO-20i


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        key: Stable and unique in the dataset, such as ``"2007_000032"``.
        image: uint8 (H, W, 3), sRGB, upright.
        class_map: uint8 (H, W), 255 ignore; beside ``masks`` its other values only say whether
            any class is there.
        masks: Where each class is that there is, bool (H, W) by class index; None where the class
            map tells. Only a dataset of more classes than a uint8 map has values, or whose classes
            lie over one another, needs it.
    """

    key: str
    image: NDArray[np.uint8]
    class_map: NDArray[np.uint8]
    masks: Mapping[int, NDArray[np.bool_]] | None = None

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Where the class of this index is, bool (H, W)."""
        if self.masks is None:
            return np.asarray(self.class_map == index + 1)
        nowhere = np.zeros(self.class_map.shape, dtype=np.bool_)
        return self.masks.get(index, nowhere)

    def without(self, indices: Collection[int]) -> Sample:
        """The sample with some classes labelled as background."""
        class_map, masks = self.class_map.copy(), self.masks
        for index in indices:
            class_map[self.mask(index)] = 0
        if masks is not None:
            masks = {index: mask for index, mask in masks.items() if index not in indices}
        return replace(self, class_map=class_map, masks=masks)


class Dataset(ABC):
    """Labelled images of named classes in two splits, with folds of novel classes.

    Args:
        name: What `piclip.datasets.catalogue.open_dataset` calls it.
        class_names: C names, at least one, each once; the place of a name is its class index.
        synonyms: What a prompt calls some of the classes, at least one wording by class name; a
            class without is called by its name.
        novel: Novel class indices of every fold; None for one fold in which all are.
        minimum_pixels: How many pixels of a class make an image count for it, by default.
        cache: Folder for the counts of `presence`, which need not be there or writable; None
            counts anew in every process.

    Raises:
        DatasetError: A class name is blank or given twice, or there is none.
        UsageError: ``minimum_pixels`` is below 1.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        *,
        synonyms: Mapping[str, tuple[str, ...]] | None = None,
        novel: Sequence[tuple[int, ...]] | None = None,
        minimum_pixels: int = MINIMUM_PIXELS,
        cache: Path | None = None,
    ) -> None:
        _check_names(name, class_names)
        if minimum_pixels < 1:
            raise UsageError(
                f"{name}: an image counts for a class from 1 pixel on or more, not from "
                f"{minimum_pixels}."
            )
        self.name = name
        self.class_names = tuple(class_names)
        self.synonyms = {c: (synonyms or {}).get(c, (c,)) for c in self.class_names}
        self.minimum_pixels = minimum_pixels
        self._novel = (tuple(range(len(class_names))),) if novel is None else tuple(novel)
        self._cache = None if cache is None else Path(cache)
        self._presence: dict[Split, NDArray[np.int64]] = {}
        self._kept: dict[str, Sample] | None = None

    def keys(self, split: Split) -> tuple[str, ...]:
        """The images of a split, in the dataset's order.

        Raises:
            UsageError: ``split`` is another word.
            DatasetError: The dataset has no such split, or it contradicts the other one.
        """
        check_choice("split", split, get_args(Split))
        return tuple(self._keys(split))

    @abstractmethod
    def _keys(self, split: Split) -> Iterable[str]:
        """The images of a split, in the dataset's order."""

    @abstractmethod
    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""

    @abstractmethod
    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W), checked for unknown values."""

    @abstractmethod
    def _fingerprint(self, split: Split) -> Iterator[str]:
        """What the counts of a split depend on; other parts make a stored count void."""

    def sample(self, key: str) -> Sample:
        """One image with its class map; of a dataset that is kept in memory, not to be changed.

        Raises:
            UsageError: There is no such key.
            ImageError: A file is missing or damaged.
            DatasetError: Image and class map differ in size, or the map has unknown values.
        """
        if self._kept is None:
            return self._read(key)
        if key not in self._kept:
            self._kept[key] = self._read(key)
        return self._kept[key]

    def keep_in_memory(self) -> None:
        """From now on every sample is read once in each process, for small datasets."""
        self._kept = self._kept or {}

    def presence(self, split: Split) -> NDArray[np.int64]:
        """Pixels of every class (N, C) in each image, in the order of `keys`; not to be changed.

        Counted once, without reading photographs, and kept in the cache folder.

        Raises:
            ImageError: A mask is missing or damaged.
            DatasetError: A mask has unknown values.
        """
        if split not in self._presence:
            counts = self._stored_or_counted(split)
            counts.flags.writeable = False
            self._presence[split] = counts
        return self._presence[split]

    def shows(self, split: Split, least: int) -> NDArray[np.bool_]:
        """Whether each image shows so many pixels of a class or more (N, C); as `presence`."""
        return np.asarray(self.presence(split) >= least)

    def folds(self) -> int:
        """Number of folds."""
        return len(self._novel)

    def novel_classes(self, fold: int) -> tuple[int, ...]:
        """Class indices that a fold holds back, ascending; the base classes are the others."""
        if not 0 <= fold < self.folds():
            choice = f"choose 0 to {self.folds() - 1}" if self.folds() > 1 else "there is only 0"
            raise UsageError(f"There is no fold {fold} of {self.name}; {choice}.")
        return self._novel[fold]

    def _read(self, key: str) -> Sample:
        masks, image = self._masks(key), self.image(key)
        class_map = self.class_map(key) if masks is None else union(masks)
        if image.shape[:2] != class_map.shape:
            raise DatasetError(
                f"{self.name}: the image {key} is {image.shape[1]} x {image.shape[0]} pixels "
                f"(width x height) but its mask is {class_map.shape[1]} x {class_map.shape[0]}; "
                f"give the mask the size of its image."
            )
        return Sample(key, image, class_map, masks)

    def _masks(self, key: str) -> dict[int, NDArray[np.bool_]] | None:
        """`Sample.masks` of an image."""
        return None

    def _count(self, key: str) -> NDArray[np.int64]:
        """Pixels of every class in one image (C,)."""
        masks, classes = self._masks(key), len(self.class_names)
        if masks is None:
            return count_pixels(self.class_map(key), classes)
        counts = np.zeros(classes, dtype=np.int64)
        for index, mask in masks.items():
            counts[index] = np.count_nonzero(mask)
        return counts

    def _stored_or_counted(self, split: Split) -> NDArray[np.int64]:
        """Counts of a split, from the cache folder where they are there and of this state."""
        keys, classes = self.keys(split), len(self.class_names)
        digest = hashlib.sha256(repr((_PRESENCE_FORMAT, classes, keys)).encode())
        for part in self._fingerprint(split):
            digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
        file = None if self._cache is None else self._cache / f"presence-{split}.npz"
        stored = None if file is None else _read_counts(file, digest.hexdigest())
        if stored is not None and stored.shape == (len(keys), classes):
            return stored
        # Decoders and bincount let go of the interpreter's lock, so threads share the work.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = list(pool.map(self._count, keys))
        counts = np.stack(rows) if rows else np.zeros((0, classes), dtype=np.int64)
        if file is not None:
            _write_counts(file, digest.hexdigest(), counts)
        return counts

    def _unknown_key(self, key: str) -> UsageError:
        return UsageError(
            f"There is no image {key!r} in {self.name}; take one of its keys, or open the dataset "
            f"that the key comes from."
        )


def check_choice(what: str, word: str, choices: Iterable[str]) -> None:
    """Refuses a word that is none of the choices (UsageError)."""
    if word not in choices:
        raise UsageError(f"There is no {what} {word!r}; choose from {', '.join(choices)}.")


def fold_members(
    classes: int, folds: int, convention: FoldConvention
) -> tuple[tuple[int, ...], ...]:
    """Class indices of every fold.

    ``contiguous``: fold i of F holds the i-th of F runs of equal length (PASCAL-5i: 5i .. 5i+4,
    counted from 0); where F does not divide the classes, the first runs are longer by one.
    ``interleaved``: fold i holds every F-th class from i on (COCO-20i: 4j + i).

    Raises:
        UsageError: Another convention, or fewer classes than folds.
    """
    check_choice("fold convention", convention, get_args(FoldConvention))
    if not 1 <= folds <= classes:
        raise UsageError(f"{classes} classes make 1 to {classes} folds, not {folds}.")
    if convention == "interleaved":
        return tuple(tuple(range(fold, classes, folds)) for fold in range(folds))
    runs = np.array_split(np.arange(classes), folds)
    return tuple(tuple(int(index) for index in run) for run in runs)


def _check_names(dataset: str, names: Sequence[str]) -> None:
    if not names:
        raise DatasetError(f"{dataset}: there is no class; name at least one.")
    if not all(name.strip() for name in names):
        raise DatasetError(f"{dataset}: a class name is blank; give every class a name.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{dataset}: two classes are called {twice!r}; rename one of them.")


def union(masks: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """1 where any of one or more masks is, uint8 (H, W)."""
    return np.asarray(np.logical_or.reduce(list(masks.values())), dtype=np.uint8)


def count_pixels(class_map: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels of every class (C,) in a class map."""
    counts = np.bincount(class_map.ravel(), minlength=IGNORE + 1)
    return counts[1 : classes + 1].astype(np.int64)


def check_class_count(names: Sequence[str], source: Path) -> None:
    """Refuses more classes than a uint8 class map has values for (DatasetError)."""
    if len(names) > MOST_CLASSES:
        raise DatasetError(
            f"{source}: there are {len(names)} classes, but a class map holds up to {MOST_CLASSES};"
            f" leave some out."
        )


def file_state(path: Path) -> str:
    """Name, size and time of change of a file, or only its name where it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return str(path.name)
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _read_counts(path: Path, state: str) -> NDArray[np.int64] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["counts"].astype(np.int64) if str(stored["state"]) == state else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_counts(path: Path, state: str, counts: NDArray[np.int64]) -> None:
    with suppress(OutputError), atomic_path(path) as temporary:  # a read-only folder
        np.savez_compressed(temporary, state=np.array(state), counts=counts.astype(np.uint32))
