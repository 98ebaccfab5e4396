"""Renaming of the tensors of published checkpoints to ours and back."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from piclip.documents import check_regular
from piclip.errors import ModelError


@dataclass(frozen=True)
class KeyMap:
    """Which beginning of a published name is which beginning of ours; the rest stays.

    A beginning ends at a dot or at the end of the name. Of several that fit, the longest counts.

    Attributes:
        pairs: Pairs of beginnings, published and ours; each occurs once.
        dropped: Beginnings of published names that we have no use for.
        aliases: Pairs of published beginnings: the second names the same tensors as the first.
    """

    pairs: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def to_own(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames the tensors of a published checkpoint to ours.

        Raises:
            ModelError: If a name is not known.
        """
        left_out = (*self.dropped, *(alias for _, alias in self.aliases))
        kept = {name: tensor for name, tensor in published.items() if not _begins(name, left_out)}
        return _rename(kept, dict(self.pairs))

    def to_published(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames our tensors to the published names, aliases included.

        Raises:
            ModelError: If a name is not known.
        """
        published = _rename(own, {ours: theirs for theirs, ours in self.pairs})
        for original, alias in self.aliases:
            named = {n: t for n, t in published.items() if _begins(n, (original,))}
            published.update(_rename(named, {original: alias}))
        return published


def _begins(name: str, beginnings: Iterable[str]) -> bool:
    return any(name == start or name.startswith(f"{start}.") for start in beginnings)


def _rename(tensors: Mapping[str, Tensor], beginnings: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        fitting = [start for start in beginnings if _begins(name, (start,))]
        if not fitting:
            raise ModelError(
                f"The tensor {name!r} belongs to no layer of this network: the checkpoint is of "
                "another kind."
            )
        start = max(fitting, key=len)
        renamed[beginnings[start] + name[len(start) :]] = tensor
    return renamed


def state_dict_of(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict without the prefix ``module.`` of parallel training.

    Args:
        weights: A checkpoint's file or its state dict.

    Raises:
        ModelError: If the file cannot be read, or does not hold tensors only.
    """
    tensors = weights if isinstance(weights, Mapping) else read_checkpoint(weights)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint; no code in it is run.

    A ``.pth`` or ``.pt`` file may hold the state dict under ``"state_dict"``.

    Args:
        path: File of ``torch.save`` or safetensors.

    Raises:
        ModelError: If it cannot be read, or does not hold tensors only.
    """
    path = Path(path)
    try:
        check_regular(path)
        content: Any
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        ValueError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint of tensors: it is absent, damaged, or holds "
            "other objects."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in content.values()
    ):
        raise ModelError(f"{path} does not hold a state dict: give a checkpoint of weights.")
    return {str(name): tensor for name, tensor in content.items()}
