"""Reading a single file of weights without running anything that it may contain."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from piclip.documents import check_regular
from piclip.errors import ModelError

_DAMAGED = "download or copy it again and compare its size with the original"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the parameters in a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file.

    Pickles are read with ``weights_only=True``: an object other than tensors is refused. The one
    exception are TorchScript archives, the form of OpenAI's own files; they hold compiled code in
    TorchScript's closed language and no Python objects, and nothing of the code is called.

    Args:
        path: The file. A checkpoint ``{"state_dict": {...}, ...}`` counts as its state dict.

    Returns:
        Tensors by name, on the CPU, in the types of the file.

    Raises:
        ModelError: If the file is missing, damaged, unsafe, or holds no state dict.
    """
    try:
        content = _read(path)
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}: check the name of the weights.") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged, or holds Python objects besides weights, which could run code "
            "when read: export its state dict to safetensors where you trust it, or download it "
            "again."
        ) from error
    # A damaged file makes the readers fail in any way: KeyError, EOFError, SafetensorError, ...
    except Exception as error:
        raise ModelError(f"{path} cannot be read as weights: {_DAMAGED}.") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ModelError(
            f"{path} holds no state dict (tensors by name): export the model's state_dict() and "
            "give that file."
        )
    return dict(content)


def _read(path: Path) -> Any:  # noqa: ANN401 - a pickle may hold anything; checked by the caller
    check_regular(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415 - only for this kind of file

        return load_file(path)
    if _is_torchscript(path):
        with warnings.catch_warnings():
            # TorchScript is deprecated in favour of other exports; OpenAI's files remain.
            warnings.simplefilter("ignore", DeprecationWarning)
            load: Callable[..., torch.nn.Module] = torch.jit.load
            return load(str(path), map_location="cpu").state_dict()
    return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive: only those have a table of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
