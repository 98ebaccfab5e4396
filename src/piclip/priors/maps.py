"""Scaling of maps to [0, 1]."""

from __future__ import annotations

from torch import Tensor


def min_max(maps: Tensor, eps: float = 1e-7) -> Tensor:
    """Shifts and scales each map to [0, 1]: ``(x - min) / (max - min + eps)``.

    Args:
        maps: Maps, (..., h, w).
        eps: Keeps the division finite for a constant map, which becomes zero.

    Returns:
        Maps of the same shape.
    """
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low + eps)
