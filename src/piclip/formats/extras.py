"""Import the libraries of the [formats] extra when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from piclip.io.extras import needs_extra


def library(module: str) -> Any:  # noqa: ANN401  (none of these libraries has types)
    """Import a module of the extra.

    Args:
        module: Its dotted name.

    Returns:
        The module.

    Raises:
        UsageError: It is not installed.
    """
    with needs_extra("formats", "Reading and writing labels"):
        return import_module(module)
