"""Addresses that a server may listen at."""

from __future__ import annotations

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach a server that listens at this address."""
    return host in _LOOPBACK
