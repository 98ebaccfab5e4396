"""Datasets that lie in files: one picture and one class map per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import Dataset, Split, file_state
from piclip.errors import DatasetError
from piclip.formats.voc import read_class_map
from piclip.io.decoding import reason
from piclip.io.documents import read_text
from piclip.io.images import read_image


@dataclass(frozen=True)
class Files:
    """Where one labelled image lies."""

    image: Path
    mask: Path  # the class map, a PNG of one channel or with a palette


class FileDataset(Dataset):
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
        super().__init__(name, class_names, **settings)
        self._files, self._advice = files, advice
        self._by_key = {key: entry for split in files.values() for key, entry in split.items()}
        if len(self._by_key) < sum(len(split) for split in files.values()):
            twice = min(files["train"].keys() & files["val"].keys())
            raise DatasetError(
                f"{name}: the image {twice} is in the train and in the val split; keep it in one, "
                f"so that nothing is measured on what was learned from."
            )

    def _keys(self, split: Split) -> Iterable[str]:
        if split not in self._files:
            raise DatasetError(f"{self.name} has no {split} split; {self._advice}.")
        return self._files[split]

    def image(self, key: str) -> NDArray[np.uint8]:
        """The picture alone, uint8 (H, W, 3), upright."""
        return np.array(read_image(self.files(key).image), dtype=np.uint8)

    def class_map(self, key: str) -> NDArray[np.uint8]:
        """The labels alone, uint8 (H, W), checked for unknown values."""
        return read_class_map(self.files(key).mask, len(self.class_names))

    def files(self, key: str) -> Files:
        """Where an image lies."""
        if key not in self._by_key:
            raise self._unknown_key(key)
        return self._by_key[key]

    def _fingerprint(self, split: Split) -> Iterator[str]:
        return (file_state(entry.mask) for entry in self._files[split].values())


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
