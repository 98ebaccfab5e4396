"""Reading a single file of weights, of a CLIP or a decoder; nothing in it is run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piclip.clip.torchscript import is_torchscript, read_torchscript
from piclip.errors import ModelError
from piclip.io.documents import check_regular

# How much larger than its file what is in it may be: torch compresses nothing, but checkpoints name
# some tensors twice or more.
_MAX_GROWTH = 8


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name, in their own types, from a .safetensors, .pt, .pth or .bin file.

    Pickles are read with ``weights_only=True``: an object other than tensors is refused. Of
    TorchScript archives, the form of OpenAI's own files, the tensors are read and no code is run.
    A checkpoint ``{"state_dict": {...}, ...}`` counts as its state dict. All is on the CPU.

    Raises:
        ModelError: If the file is missing, damaged, unsafe, or holds no state dict.
    """
    try:
        content = _read(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint of weights: it is damaged, or holds more than "
            "that, which could run code when read: where you trust it, read it elsewhere with "
            "torch.load or torch.jit.load and save its state_dict() as safetensors, or download it "
            "again."
        ) from error
    # A damaged file makes the readers fail in any way: KeyError, EOFError, SafetensorError, ...
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint of weights (absent or damaged): download, copy "
            "or save it again and compare its size with the original."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(
            f"{path} holds no state dict (tensors by name): export the model's state_dict() and "
            "give that file."
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in content.values())
    if size > _MAX_GROWTH * path.stat().st_size:
        raise ModelError(
            f"The tensors in {path} are far larger than the file, as they repeat a few numbers: "
            "save clones of them."
        )
    return dict(content)


def _read(path: Path) -> Any:  # noqa: ANN401 - a pickle may hold anything; checked by the caller
    check_regular(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415 - only for this kind of file

        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MAX_GROWTH * path.stat().st_size:
                raise pickle.UnpicklingError("entries that unpack to much more than the file")
            if is_torchscript(archive):
                return read_torchscript(archive)
    return torch.load(path, map_location="cpu", weights_only=True)
