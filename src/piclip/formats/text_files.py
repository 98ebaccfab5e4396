"""Text files of label formats: lines in, whole files out."""

from __future__ import annotations

from pathlib import Path

from piclip.errors import UsageError
from piclip.io import documents
from piclip.io.decoding import reason
from piclip.io.outputs import atomic_path


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (UsageError if it cannot be read)."""
    try:
        return documents.read_text(path)
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}; check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}; export the labels again.") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a file that are not empty, without spaces around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def write_text(text: str, path: Path) -> Path:
    """Write a file atomically, ended by a new line unless empty (OutputError)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n" if text else "", encoding="utf-8")
    return path
