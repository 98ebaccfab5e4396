"""Text, JSON, YAML and XML files that somebody hands us, read within bounds.

Whatever is in such a file, reading it takes time and memory in proportion to its size: nothing
waits at a pipe, nothing is nested without end, and no alias unfolds to a billion values.
"""

from __future__ import annotations

import errno
import json
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

import numpy as np

if TYPE_CHECKING:
    import yaml

MOST_BYTES = 2_000_000_000
"""Of a JSON or text file; the largest annotations in use (LVIS) have 1.2 GB."""

MOST_YAML_BYTES = 1_000_000
MOST_YAML_VALUES = 100_000
"""With every alias counted as what it stands for."""

MOST_XML_BYTES = 500_000_000

MOST_LEVELS = 64

_XML_PART = 1 << 20
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKET = re.compile(r"[^][{}]+")


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


def read_xml(path: str | Path) -> Element:
    """Read an XML file without declarations, which could make a short file stand for a huge one.

    Raises:
        OSError: As `read_text`.
        ValueError: As `read_text`, or it is no XML, nested too deeply, or declares a document
            type or entities; the error says so in a few words.
    """
    text = read_text(path, most_bytes=MOST_XML_BYTES)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("this XML declares a document type or entities, which are not read")
    parser: Any = XMLPullParser(("start", "end"))
    level, root = 0, Element("")
    try:
        for at in range(0, len(text), _XML_PART):
            parser.feed(text[at : at + _XML_PART])
            for event, element in parser.read_events():
                level += 1 if event == "start" else -1
                if level > MOST_LEVELS:
                    raise ValueError(_too_deep("XML"))
                root = element
        parser.close()
    except ParseError as error:
        raise ValueError(f"this is no valid XML ({error})") from error
    return root  # the last to end


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
