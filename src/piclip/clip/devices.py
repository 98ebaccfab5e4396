"""Where tensors live and in which type: what people name, checked before anything is computed."""

from __future__ import annotations

import torch

from piclip.errors import UsageError

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def usable_device(name: str | torch.device) -> torch.device:
    """A device such as "cpu", "cuda:1" or "mps"; UsageError if there is none of this name here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {str(name)!r} cannot be used here; choose auto or cpu."
        ) from error
    return device


def resolve_device(name: str | torch.device) -> torch.device:
    """As `usable_device`; "auto" is CUDA, else MPS, else the CPU."""
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    return usable_device(name)


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The floating-point type, or that of a name; "auto" is float16 on CUDA, else float32.

    Raises:
        UsageError: It is neither float32, bfloat16 nor float16, nor "auto".
    """
    plain = str(name).removeprefix("torch.")
    if plain == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if plain not in _DTYPES:
        raise UsageError(f"Unknown dtype {plain!r}; choose auto, {', '.join(_DTYPES)}.")
    return _DTYPES[plain]
