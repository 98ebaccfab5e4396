"""Features of images in memory: an evaluation meets the same supports and queries many times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor

from piclip.clip.cache import FeatureCache

LIMIT = 2**30
"""Bytes of tensors that are kept by default."""


class MemoryCache(FeatureCache):
    """Keeps tensors by key until they take too much memory; what was used last stays.

    Since cached images are encoded one at a time, no result depends on the size of a batch.

    Args:
        limit: Most bytes of all tensors together.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under a key, or None where there are none."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Stores tensors under a key, in place of older ones."""
        self._bytes -= _size(self._kept.pop(key, {}))
        self._kept[key] = dict(tensors)
        self._bytes += _size(tensors)
        while self._bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())
