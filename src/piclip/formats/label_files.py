"""Read label files of text and JSON, or say in one sentence what is wrong; write them.

What of them cannot be used is noted (`Problems`), so that one bad shape never costs the job.

``where`` is always the file and the item in it, as that sentence calls them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias, TypeVar
from xml.etree.ElementTree import Element

from piclip.errors import ImageError, MaskError, PiclipError, UsageError
from piclip.io import documents
from piclip.io.decoding import check_pixels, reason
from piclip.io.images import MAX_PIXELS
from piclip.io.outputs import atomic_path

T = TypeVar("T")
_WORDS = {
    str: "text",
    int: "whole number",
    list: "list",
    dict: "object",
    bool: "true or false",
    float: "number",
}


Boxes: TypeAlias = Literal["skip", "as-masks"]
"""What becomes of boxes without a mask in formats whose boxes are no drawn areas (COCO, YOLO)."""


class Problems:
    """Collects one sentence for each shape, mask or image that is left out."""

    def __init__(self) -> None:
        self.sentences: list[str] = []  # in the order of the labels
        self.notes: list[str] = []  # what was decided in reading that a person should know

    @contextmanager
    def noted(self, *more: type[PiclipError]) -> Iterator[None]:
        """Leaves out what its block reads if that is a MaskError or ImageError, or one of more."""
        try:
            yield
        except PiclipError as error:
            if not isinstance(error, (MaskError, ImageError, *more)):
                raise
            self.note(error)

    def note(self, error: PiclipError) -> None:
        """Takes down what an error says."""
        self.sentences.append(str(error))


def box_without_mask(where: str) -> MaskError:
    """The error for a box that is not to be taken as a mask."""
    return MaskError(
        f"{where}: this is a box without a mask; draw its outline, or take boxes as masks with "
        f"--boxes as-masks (boxes='as-masks' in Python)."
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the readers of `piclip.io.documents` raise in its block into UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}; check the path.") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}; export the labels again.") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (UsageError if it cannot be read)."""
    with readable(path):
        return documents.read_text(path)


def read_lines(path: Path) -> list[str]:
    """The lines of a file that are not empty, without spaces around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_names(path: Path) -> list[str]:
    """The class names in a file, one a line, by index (UsageError if one is blank)."""
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in names:
        raise UsageError(
            f"{path}: line {names.index('') + 1} is blank, which leaves open what indices the "
            f"names after it have; take the line out or write a name."
        )
    return names


def check_lines(names: Sequence[str]) -> None:
    """Refuse names that `read_lines` would not give back as they are (UsageError)."""
    for name in names:
        if [line.strip() for line in name.splitlines()] != [name]:
            raise UsageError(
                f"The class {name!r} has a line end, or a space at its beginning or end, which "
                f"this format cannot hold; rename it or write another format, such as coco."
            )


def load_json(path: Path) -> Any:  # noqa: ANN401  (what a JSON file holds)
    """The content of a JSON file (UsageError if it cannot be read, or is not JSON)."""
    with readable(path):
        return documents.read_json(path)


def load_xml(path: Path) -> Element:
    """The root of an XML file (UsageError if it cannot be read, or declares entities)."""
    with readable(path):
        return documents.read_xml(path)


def json_if_any(path: Path) -> Any:  # noqa: ANN401
    """As `load_json`; None if the path is no file named ``.json``."""
    return load_json(path) if path.suffix.lower() == ".json" and path.is_file() else None


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file to write, there in full or not at all (OutputError)."""
    with (
        atomic_path(path) as temporary,
        # File names that are no valid UTF-8 hold lone surrogates, which JSON writes as \\udcXX.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out,
    ):
        yield out


def write_text(text: str, path: Path) -> Path:
    """Write a file atomically, ended by a new line unless empty (OutputError)."""
    with written(path) as out:
        out.write(text + "\n" if text else "")
    return path


def write_list(items: Iterable[object], out: TextIO) -> None:
    """Write a JSON list, one item per line; none is kept in memory."""
    out.write("[")
    for number, item in enumerate(items):
        line = json.dumps(item, ensure_ascii=False, allow_nan=False)
        out.write((",\n" if number else "\n") + line)
    out.write("\n]")


def dump_list(items: Iterable[object], path: Path) -> Path:
    """Write a JSON list as `write_list` into a file (OutputError)."""
    with written(path) as out:
        write_list(items, out)
        out.write("\n")
    return path


def field(
    item: object, key: str, kind: type[T], where: str, error: type[PiclipError] = UsageError
) -> T:
    """One field of a JSON object, of the type str, int, list or dict; else an ``error``.

    Give MaskError for a shape, which is then left out.
    """
    if not isinstance(item, dict):
        raise error(f"{where}: an object with the field {key!r} was expected here.")
    value = item.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise error(f"{where}: the field {key!r} is missing or no {_WORDS[kind]}.")
    return value


def optional_number(item: dict[str, Any], key: str, where: str) -> float | None:
    """A field of a shape that is a number, or None where it is missing or null (else MaskError)."""
    value = item.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MaskError(f"{where}: the field {key!r} is no number.")
    return float(value)


def image_size_field(
    item: object,
    where: str,
    height: str = "height",
    width: str = "width",
    *,
    error: type[PiclipError] = UsageError,
) -> tuple[int, int]:
    """(height, width) from two fields as `field` (ImageError if it is none, or too large)."""
    size = field(item, height, int, where, error), field(item, width, int, where, error)
    check_pixels(where, size[1], size[0], MAX_PIXELS)
    return size
