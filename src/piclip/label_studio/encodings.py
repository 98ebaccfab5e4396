"""Encode labelled images once: one more label must not cost encoding all the others again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from piclip.clip.cache import content_key
from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.vit import LastBlock

LIMIT = 2**30
"""Bytes of encodings that are kept of a project (32 MB an image with a ViT-B/16 at 448 pixels)."""

Made = TypeVar("Made")


class KeptEncodings:
    """Encodings by the content of their pixels.

    When they take too much memory, those that the present learning did not ask for go; if that
    is not enough, further ones are made anew each time.

    Args:
        limit: Most bytes of all tensors together.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept: dict[str, object] = {}
        self._asked: set[str] = set()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def start(self) -> None:
        """Another learning begins."""
        self._asked.clear()

    def recall(self, kind: str, pixels: Tensor, make: Callable[[Tensor], Made]) -> Made:
        """What was made of these pixels before, or else is made now."""
        key = content_key(kind, pixels)
        self._asked.add(key)
        if key in self._kept:
            return self._kept[key]  # type: ignore[return-value]  # each kind has one type
        made = make(pixels)
        if _bytes([*self._kept.values(), made]) > self._limit:
            self._kept = {k: v for k, v in self._kept.items() if k in self._asked}
        if _bytes([*self._kept.values(), made]) <= self._limit:
            self._kept[key] = made
        return made


class KeepingEncoder(Encoder):
    """An encoder that can keep what it makes."""

    _encodings: KeptEncodings | None = None

    @contextmanager
    def keeping(self, encodings: KeptEncodings) -> Iterator[None]:
        """Keep everything that is encoded in the block, and recall what is kept already."""
        encodings.start()
        self._encodings = encodings
        try:
            yield
        finally:
            self._encodings = None

    def encode(self, pixels: Tensor) -> Encoding:
        """See `Encoder.encode`."""
        if self._encodings is None:
            return super().encode(pixels)
        return self._encodings.recall("whole", pixels, super().encode)

    def encode_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `Encoder.encode_tokens`."""
        if self._encodings is None:
            return super().encode_tokens(pixels)
        return self._encodings.recall("object", pixels, super().encode_tokens)


def _bytes(values: list[object]) -> int:
    """Memory of all tensors in encodings; views of one memory count once."""
    storages = (tensor.untyped_storage() for value in values for tensor in _tensors(value))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Encoding | LastBlock):  # the weights in a block belong to the model
        for part in vars(value).values():
            yield from _tensors(part)
