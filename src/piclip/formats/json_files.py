"""Read JSON label files and their fields, or say in one sentence what is wrong; write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from piclip.errors import UsageError
from piclip.formats.text_files import write_text
from piclip.io.decoding import check_pixels, reason
from piclip.io.documents import read_json
from piclip.io.images import MAX_PIXELS

T = TypeVar("T")
_WORDS = {
    str: "text",
    int: "whole number",
    list: "list",
    dict: "object",
    bool: "true or false",
    float: "number",
}


def load_json(path: Path) -> Any:  # noqa: ANN401  (what a JSON file holds)
    """Read a JSON file.

    Raises:
        UsageError: It cannot be read, or is not JSON.
    """
    try:
        return read_json(path)
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}; check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}; export the labels again.") from error


def dump_json(value: object, path: Path) -> Path:
    """Write a JSON file atomically on one line: indented, each corner would take a line.

    Raises:
        OutputError: The file cannot be written.
    """
    return write_text(json.dumps(value, allow_nan=False), path)


def field(item: object, key: str, kind: type[T], where: str) -> T:
    """Get one field of a JSON object.

    Args:
        item: The object.
        key: The field's name.
        kind: str, int, list or dict.
        where: The file and the item, for the error's sentence.

    Raises:
        UsageError: The item is no object, or the field is missing or of another kind.
    """
    if not isinstance(item, dict):
        raise UsageError(f"{where}: an object with the field {key!r} was expected here.")
    value = item.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where}: the field {key!r} is missing or no {_WORDS[kind]}.")
    return value


def optional_number(item: dict[str, Any], key: str, where: str) -> float | None:
    """A field that is a number, or None where it is missing or null (else UsageError)."""
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: the field {key!r} is no number.")
    return float(value)


def image_size_field(
    item: object, where: str, *, height: str = "height", width: str = "width"
) -> tuple[int, int]:
    """(height, width) from two fields.

    Raises:
        UsageError: A field is missing.
        ImageError: The size is not that of an image, or over the limit.
    """
    size = field(item, height, int, where), field(item, width, int, where)
    check_pixels(where, size[1], size[0], MAX_PIXELS)
    return size
