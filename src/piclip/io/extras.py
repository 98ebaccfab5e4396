"""Libraries that only some commands need: what to say where they are not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from piclip.errors import UsageError


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turns a failed import in its block into advice (UsageError).

    Args:
        extra: Name of the extra that brings the library.
        purpose: What cannot be done without it; begins the sentence.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs the extra [{extra}] ({error.name} is not installed): "
            f"pip install 'piclip[{extra}]'."
        ) from error


@cache  # a file of labels asks for it a million times
def library(module: str) -> Any:  # noqa: ANN401  (none of these libraries has types)
    """Import a module of the extra [formats] by its dotted name (UsageError if it is missing)."""
    with needs_extra("formats", "Reading and writing labels"):
        return import_module(module)


def arrow() -> Any:  # noqa: ANN401
    """The library pyarrow of the extra [parquet] (UsageError if it is missing)."""
    with needs_extra("parquet", "Reading and writing Parquet files"):
        import pyarrow.dataset  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415
    return pyarrow
