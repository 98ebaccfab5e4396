"""Which image shows how many pixels of which class: counted once, kept in a file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.errors import OutputError
from piclip.io.outputs import atomic_path

_FORMAT = "presence 1"


class PresenceTable(Mapping[str, NDArray[np.int64]]):
    """Pixels of every class by key.

    Attributes:
        counts: int64 (N, C), one row per key, in the order of the keys; not to be written to.
    """

    def __init__(self, keys: Sequence[str], counts: NDArray[Any]) -> None:
        self.counts: NDArray[np.int64] = counts.astype(np.int64)
        self.counts.flags.writeable = False
        self._rows = {key: row for row, key in enumerate(keys)}

    def __getitem__(self, key: str) -> NDArray[np.int64]:
        """The counts (C,) of one image."""
        counts: NDArray[np.int64] = self.counts[self._rows[key]]
        return counts

    def __iter__(self) -> Iterator[str]:
        """The keys, in the dataset's order."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Number of images N."""
        return len(self._rows)


def load_presence(
    path: Path | None,
    keys: Sequence[str],
    classes: int,
    count: Callable[[str], NDArray[np.int64]],
    fingerprint: Iterable[str],
) -> PresenceTable:
    """Takes the counts from a file, or counts and writes the file.

    A file that is not there, damaged or of another state of the dataset is made anew; one that
    cannot be written (a read-only folder) is done without.

    Args:
        path: The ``.npz`` file; None for none.
        keys: N images.
        classes: Number of classes C.
        count: Pixels of every class (C,) in one image; called from several threads.
        fingerprint: Everything the counts depend on besides ``keys``.

    Returns:
        The table.
    """
    digest = hashlib.sha256(repr((_FORMAT, classes, tuple(keys))).encode())
    for part in fingerprint:
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    state = digest.hexdigest()
    stored = None if path is None else _read(path, state, (len(keys), classes))
    if stored is not None:
        return PresenceTable(keys, stored)
    # Decoders and bincount let go of the interpreter's lock, so threads share the work.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(count, keys))
    counts = np.stack(rows) if rows else np.zeros((0, classes), dtype=np.int64)
    if path is not None:
        _write(path, state, counts)
    return PresenceTable(keys, counts)


def file_state(path: Path) -> str:
    """Name, size and time of change of a file, or only its name where it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return str(path.name)
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _read(path: Path, state: str, shape: tuple[int, int]) -> NDArray[Any] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["state"]) != state:
                return None
            counts = np.asarray(stored["counts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return counts if counts.shape == shape else None


def _write(path: Path, state: str, counts: NDArray[np.int64]) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, state=np.array(state), counts=counts.astype(np.uint32))
    except OutputError:
        return  # the counts are known all the same
