"""Text, JSON, YAML and plain pickle files that somebody hands us, read within bounds.

Whatever is in such a file, reading it takes time and memory in proportion to its size: nothing
waits at a pipe, nothing is nested without end, no alias unfolds to a billion values, and nothing
is executed.
"""

from __future__ import annotations

import errno
import json
import pickle
import pickletools
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import yaml

MOST_BYTES = 2_000_000_000
"""Of a JSON or text file; the largest annotations in use (LVIS) have 1.2 GB."""

MOST_YAML_BYTES = 1_000_000
MOST_YAML_VALUES = 100_000
"""With every alias counted as what it stands for."""

MOST_PICKLE_BYTES = 100_000_000

MOST_LEVELS = 64

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKET = re.compile(r"[^][{}]+")

_PLAIN_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "LIST", "APPEND", "APPENDS", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "INT", "BININT",
    "BININT1", "BININT2", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
}  # fmt: skip
"""What makes dicts, lists, texts and whole numbers; no other opcode imports or calls anything."""


def check_regular(path: str | Path) -> int:
    """Refuse what is there but no regular file, such as a pipe that nobody writes to.

    Returns:
        The file's size in bytes.

    Raises:
        OSError: It is a folder, a pipe or a device, or not there.
        ValueError: The name holds a NUL.
    """
    status = Path(path).stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "this is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "this is not a regular file", str(path))
    return status.st_size


def read_text(path: str | Path, *, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8, with or without byte order mark.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is larger than the limit, no UTF-8, or its name holds a NUL; the error says
            so in a few words.
    """
    if check_regular(path) > most_bytes:
        raise ValueError(f"this is larger than {most_bytes:,} bytes")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"this is not a text in UTF-8 (byte {error.start})") from error


def read_json(path: str | Path) -> Any:  # noqa: ANN401  (what a JSON file holds)
    """Read a JSON file.

    Raises:
        OSError: As `read_text`.
        ValueError: As `read_text`, or as `parse_json`.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:  # noqa: ANN401
    """Read JSON.

    Raises:
        ValueError: It is no JSON, or nested too deeply; the error says so in a few words.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"this is not valid JSON ({where}: {error.msg})") from error
    except RecursionError as error:
        raise ValueError(_too_deep("JSON")) from error
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text)).encode("ascii")
    opening = np.isin(np.frombuffer(brackets, dtype=np.uint8), np.frombuffer(b"[{", dtype=np.uint8))
    if np.where(opening, 1, -1).cumsum().max(initial=0) > MOST_LEVELS:
        raise ValueError(_too_deep("JSON"))
    return content


def read_yaml(path: str | Path) -> Any:  # noqa: ANN401
    """Read a YAML file.

    Raises:
        ImportError: PyYAML is not installed.
        OSError: As `read_text`.
        ValueError: As `read_text`, or as `parse_yaml`.
    """
    return parse_yaml(read_text(path, most_bytes=MOST_YAML_BYTES))


def parse_yaml(text: str) -> Any:  # noqa: ANN401
    """Read YAML of plain values.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: It is no YAML, nested too deeply, or its aliases stand for too much; the error
            says so in a few words.
    """
    import yaml  # noqa: PLC0415  (part of some extras only)

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except RecursionError as error:
        raise ValueError(_too_deep("YAML")) from error
    except yaml.YAMLError as error:
        raise _invalid_yaml(error) from error
    if node is None:
        return None
    _check_yaml(node)
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # 2020-99-99
        raise _invalid_yaml(error) from error


def read_plain_pickle(path: str | Path) -> Any:  # noqa: ANN401
    """Read a pickle of dicts, lists, texts and whole numbers.

    A pickle can call any function; one that holds an instruction to import, call or build anything
    else is refused before it is loaded.

    Raises:
        OSError: As `read_text`.
        ValueError: It is too large, no pickle, or holds anything else; the error says so in a few
            words.
    """
    if check_regular(path) > MOST_PICKLE_BYTES:
        raise ValueError(f"this is larger than {MOST_PICKLE_BYTES:,} bytes")
    data = Path(path).read_bytes()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in _PLAIN_OPCODES:
                raise ValueError(f"it holds {opcode.name}, more than lists, texts and numbers")
            # The loader makes room for every place up to the greatest.
            if opcode.name.endswith("PUT") and int(argument or 0) > number:
                raise ValueError("a place in its memory is out of range")
        return pickle.loads(data)
    except (ValueError, TypeError, IndexError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"this is no pickle to read here ({error})") from error


def _check_yaml(root: yaml.Node) -> None:
    """Count what a document stands for, before merges copy any of it (ValueError)."""
    values, waiting = 0, [(root, 1)]
    while waiting:
        node, level = waiting.pop()
        values += 1
        if level > MOST_LEVELS:
            raise ValueError(_too_deep("YAML"))
        if values > MOST_YAML_VALUES:
            raise ValueError(
                f"this YAML holds more than {MOST_YAML_VALUES:,} values, each alias counted as "
                f"what it stands for"
            )
        if isinstance(node.value, list):
            for child in node.value:
                pair = child if isinstance(child, tuple) else (child,)
                waiting += [(part, level + 1) for part in pair]


def _invalid_yaml(error: Exception) -> ValueError:
    return ValueError(f"this is no valid YAML ({' '.join(str(error).split())})")


def _too_deep(kind: str) -> str:
    return f"this is not {kind} to read here: it is more than {MOST_LEVELS} levels deep"
