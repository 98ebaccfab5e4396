"""Text, JSON, YAML, XML and plain pickle files that somebody hands us, read within bounds.

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
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args, get_origin
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

import numpy as np

from piclip.io.outputs import Progress

if TYPE_CHECKING:
    import yaml

MOST_BYTES = 2_000_000_000
"""Of a JSON or text file; the largest annotations in use (LVIS) have 1.2 GB."""

MOST_YAML_BYTES = 1_000_000
MOST_YAML_VALUES = 100_000
"""With every alias counted as what it stands for."""

MOST_XML_BYTES = 500_000_000
MOST_PICKLE_BYTES = 100_000_000

MOST_LEVELS = 64

_ESCAPE = re.compile(rb"\\.")
_STRING = re.compile(rb'"[^"]*"')
_PLAIN = bytes(set(range(256)) - set(b'"[]{}'))
_SPACES = tuple(" \t\n\r")
_CHUNK = 1 << 20  # characters

_PLAIN_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "LIST", "APPEND", "APPENDS", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "INT", "BININT",
    "BININT1", "BININT2", "FLOAT", "BINFLOAT", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET",
    "BINGET", "LONG_BINGET",
}  # fmt: skip
"""What makes dicts, lists, texts and numbers; no other opcode imports or calls anything."""


def check_regular(path: str | Path) -> int:
    """Size in bytes of a regular file.

    Raises:
        OSError: It is a folder, a device or a pipe, which might never end, or not there.
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
    """Read a JSON file; errors as of `read_text` and `parse_json`."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:  # noqa: ANN401
    """Read JSON; a ValueError says in a few words that it is none, or nested too deeply."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"this is not valid JSON ({where}: {error.msg})") from error
    except RecursionError as error:
        raise ValueError(_too_deep("JSON")) from error
    _check_levels(text, MOST_LEVELS)
    return content


def json_fields(path: str | Path, progress: Progress | None = None) -> Iterator[tuple[str, Any]]:
    """Read a large JSON object, field by field and its lists entry by entry.

    Yields:
        The name of each field and its value; of a list, an iterator over its entries, which is of
        no use once the next field is asked for. For JSON that is no object, nothing.

    Raises:
        OSError: As `read_text`.
        ValueError: As `read_text`, or as `parse_json`; perhaps after some fields.
    """
    size = check_regular(path)
    if size > MOST_BYTES:
        raise ValueError(f"this is larger than {MOST_BYTES:,} bytes")
    with Path(path).open(encoding="utf-8-sig") as file:
        text = _JsonText(file, size, progress)
        if text.peek() != "{":
            text.value(MOST_LEVELS)
        else:
            for _ in text.parts("{}"):
                name = text.name()
                if text.peek() == "[":
                    entries = (text.value(MOST_LEVELS - 2) for _ in text.parts("[]"))
                    yield name, entries
                    deque(entries, maxlen=0)  # what is left of them
                else:
                    yield name, text.value(MOST_LEVELS - 1)
        text.end()


class _JsonText:
    """The text of a JSON file, of which no more is held than the value that is being read."""

    def __init__(self, file: TextIO, size: int, progress: Progress | None) -> None:
        self._file, self._size, self._progress = file, size, progress
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._before, self._ended = "", 0, 0, False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._text[self._at : self._at + 1] in _SPACES:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def take(self, expected: str) -> str:
        """Go over the next character, which must be one of these."""
        found = self.peek()
        if not found or found not in expected:
            raise self._invalid(f"{' or '.join(expected)} was expected", self._at)
        self._at += 1
        return found

    def parts(self, brackets: str) -> Iterator[None]:
        """Stop before each part of a list or an object."""
        closing = brackets[1]
        self.take(brackets[0])
        if self.peek() == closing:
            self.take(closing)
            return
        yield
        while self.take("," + closing) != closing:
            yield

    def name(self) -> str:
        """The name of a field, with its colon."""
        if self.peek() != '"':
            raise self._invalid("a name in quotes was expected", self._at)
        name: str = self.value(1)
        self.take(":")
        return name

    def value(self, most_levels: int) -> Any:  # noqa: ANN401
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._invalid(error.msg, error.pos) from error
            except RecursionError as error:
                raise ValueError(_too_deep("JSON")) from error
            else:
                # Of 1e+5 the decoder takes the 1 where the text that is read ends before the 5.
                if end + 2 < len(self._text) or self._ended:
                    break
            self._read_on()
        _check_levels(self._text[self._at : end], most_levels)
        self._at = end
        return value

    def end(self) -> None:
        """Nothing must be left."""
        if self.peek():
            raise self._invalid("Extra data", self._at)

    def _invalid(self, message: str, at: int) -> ValueError:
        place = self._before + at + 1
        return ValueError(f"this is not valid JSON (character {place:,}: {message})")

    def _read_on(self) -> None:
        """Read at least as much as waits: a value of any length is tried a few times only."""
        waiting = self._text[self._at :]
        try:
            more = self._file.read(max(_CHUNK, len(waiting)))
        except UnicodeDecodeError as error:
            raise ValueError("this is not a text in UTF-8") from error
        self._before += self._at
        self._text, self._at, self._ended = waiting + more, 0, not more
        if self._progress is not None:
            self._progress(min(self._file.buffer.tell(), self._size), self._size)


def _check_levels(text: str, most: int) -> None:
    """Refuse valid JSON that is nested more deeply (ValueError)."""
    if text.count("[") + text.count("{") <= most:
        return
    marks = _ESCAPE.sub(b"", text.encode(errors="replace")).translate(None, _PLAIN)
    brackets = _STRING.sub(b"", marks)
    opening = np.isin(np.frombuffer(brackets, dtype=np.uint8), np.frombuffer(b"[{", dtype=np.uint8))
    steps = np.where(opening, np.int8(1), np.int8(-1))
    if steps.cumsum(dtype=np.int32).max(initial=0) > most:
        raise ValueError(_too_deep("JSON"))


def read_yaml(path: str | Path) -> Any:  # noqa: ANN401
    """Read a YAML file; errors as of `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path, most_bytes=MOST_YAML_BYTES))


def parse_yaml(text: str) -> Any:  # noqa: ANN401
    """Read YAML of plain values.

    Raises:
        ImportError: PyYAML is not installed.
        ValueError: It is no YAML, nested too deeply, its aliases stand for too much, or a key is
            written twice; the error says so in a few words.
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


def unfit(values: Mapping[str, object], types: Mapping[str, Any]) -> str | None:
    """What is wrong with the first value of another type than it should be; None without one.

    Args:
        values: As JSON and YAML have them, by name.
        types: Annotations of these names. A whole number does for a float, a text for a path or a
            Literal, and what is inside a list or an object is not looked at.
    """
    for name, value in values.items():
        if not _fits(value, types[name]):
            wanted = getattr(types[name], "__name__", types[name])
            return f"{name} = {value!r} is no {wanted}"
    return None


def _fits(value: object, wanted: Any) -> bool:  # noqa: ANN401
    if isinstance(wanted, UnionType):
        return any(_fits(value, one) for one in get_args(wanted))
    kind = get_origin(wanted) or wanted
    if kind is Literal:
        return isinstance(value, str)  # which ones there are others know better
    if isinstance(value, bool):
        return kind is bool  # though Python's are whole numbers
    return isinstance(value, {float: (int, float), Path: (str, Path)}.get(kind, kind))


def read_xml(path: str | Path) -> Element:
    """Read an XML file without declarations, which could make a short file stand for a huge one.

    Raises:
        OSError: As `read_text`.
        ValueError: As `read_text`, or it is no XML, nested too deeply, or has declarations.
    """
    text = read_text(path, most_bytes=MOST_XML_BYTES)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("this XML declares a document type or entities, which are not read")
    parser: Any = XMLPullParser(("start", "end"))
    level, root = 0, Element("")
    try:
        for at in range(0, len(text), _CHUNK):
            parser.feed(text[at : at + _CHUNK])
            for event, element in parser.read_events():
                level += 1 if event == "start" else -1
                if level > MOST_LEVELS:
                    raise ValueError(_too_deep("XML"))
                root = element
        parser.close()
    except ParseError as error:
        raise ValueError(f"this is no valid XML ({error})") from error
    return root  # the last to end


def read_plain_pickle(path: str | Path, *, most_bytes: int = MOST_PICKLE_BYTES) -> Any:  # noqa: ANN401
    """Read a pickle of dicts, lists, texts and numbers.

    A pickle can call any function; one that holds an instruction to import, call or build anything
    else, such as an array, is refused before it is loaded. One part may stand in many places of
    what is read, so that to walk through all of it may take longer than the file is long.

    Raises:
        OSError: As `read_text`.
        ValueError: It is too large, no pickle, or holds anything else; the error says so in a few
            words.
    """
    if check_regular(path) > most_bytes:
        raise ValueError(f"this is larger than {most_bytes:,} bytes")
    data = Path(path).read_bytes()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in _PLAIN_OPCODES:
                raise ValueError(
                    f"it holds {opcode.name}, more than lists, texts and numbers: arrays and other "
                    f"objects are not read"
                )
            # The loader makes room for every place up to the greatest.
            if opcode.name.endswith("PUT") and int(argument or 0) > number:
                raise ValueError("a place in its memory is out of range")
        return pickle.loads(data)
    except (ValueError, TypeError, IndexError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"this is no pickle to read here ({error})") from error


def _check_yaml(root: yaml.Node) -> None:
    """Count what a document stands for, before merges copy any of it, and see to its keys.

    ValueError where it stands for too much, or a key is written twice, of which the last would win.
    """
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
            _check_keys([child[0] for child in node.value if isinstance(child, tuple)])
            for child in node.value:
                pair = child if isinstance(child, tuple) else (child,)
                waiting += [(part, level + 1) for part in pair]


def _check_keys(keys: list[yaml.Node]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in keys:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if name in lines:
            raise ValueError(
                f"the key {key.value!r} is written twice, on lines {lines[name]} and {line}; "
                f"leave one of them out"
            )
        lines[name] = line


def _invalid_yaml(error: Exception) -> ValueError:
    return ValueError(f"this is no valid YAML ({' '.join(str(error).split())})")


def _too_deep(kind: str) -> str:
    return f"this is not {kind} to read here: it is more than {MOST_LEVELS} levels deep"
