"""Where tensors live: the devices that people name, checked before anything is computed."""

from __future__ import annotations

import torch

from piclip.errors import UsageError


def usable_device(name: str | torch.device) -> torch.device:
    """The device of this name.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps", ... or a torch device.

    Raises:
        UsageError: There is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {str(name)!r} cannot be used here; choose auto or cpu."
        ) from error
    return device
