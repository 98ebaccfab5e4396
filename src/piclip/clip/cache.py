"""Tensors by content: what a frozen model made of an image need not be made twice."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from piclip.errors import OutputError
from piclip.io.outputs import atomic_path


def content_key(*parts: str | Tensor) -> str:
    """A name for what is computed from these parts: SHA-256 of their values, shapes and types."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text {len(part)} {part}".encode())
        else:
            digest.update(f"tensor {part.dtype} {tuple(part.shape)} ".encode())
            flat = part.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names and values of all parameters and buffers."""
    return content_key(*chain.from_iterable(sorted(model.state_dict().items())))


class FeatureCache:
    """Tensors on disk by key; one safetensors file per key, written whole or not at all.

    A file that cannot be read counts as absent and is written anew. A folder that cannot be
    written (a full or read-only disk) costs one warning; from then on the cache only reads.

    Args:
        folder: Where the files are; made when the first one is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writable = True

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under a key, on the CPU, or None where there are none."""
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import load_file  # noqa: PLC0415

        try:
            tensors: dict[str, Tensor] = load_file(self._path(key))
        except (OSError, ValueError, SafetensorError):
            return None
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Stores tensors under a key, in place of older ones."""
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import save_file  # noqa: PLC0415

        if not self._writable:
            return
        values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            with atomic_path(self._path(key)) as path:
                save_file(values, path)
        except (OutputError, SafetensorError) as error:
            self._writable = False
            warnings.warn(f"Features are no longer cached: {error}", stacklevel=2)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


class MemoryCache:
    """Keeps tensors by key until they take too much memory; what was used last stays.

    Args:
        limit: Most bytes of all tensors together.
    """

    def __init__(self, limit: int = 2**30) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under a key, or None where there are none."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

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


Cache: TypeAlias = FeatureCache | MemoryCache
"""Keeps tensors by key. Cached images are encoded one at a time, so that no result depends on the
size of a batch."""
