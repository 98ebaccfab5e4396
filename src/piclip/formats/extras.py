"""Import the libraries of the [formats] extra when they are first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from piclip.errors import UsageError


def library(module: str) -> Any:  # noqa: ANN401  (none of these libraries has types)
    """Import a module of the extra.

    Args:
        module: Its dotted name.

    Returns:
        The module.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"Reading and writing labels needs {module}, which belongs to the extra [formats]: "
            f"pip install 'piclip[formats]'."
        ) from error
