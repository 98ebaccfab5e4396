"""Which images a job is about: a Parquet file of their paths, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from piclip.annotation.queries import path_hash
from piclip.errors import UsageError
from piclip.formats.label_files import read_lines
from piclip.io.extras import arrow
from piclip.io.images import is_image_name
from piclip.io.storage import (
    fetch,
    file_system,
    files_below,
    is_file,
    joined,
    local_path,
    new_file,
    scratch_file,
)

Table: TypeAlias = Any  # of Arrow, which has no types
_ROWS = 50_000  # paths that are in memory at once


def shard_of(path: str, shards: int) -> int:
    """The number of the shard, 0 to ``shards`` - 1, that an image belongs to."""
    return path_hash(path) % shards


def root_of(images: str) -> str:
    """The folder below which images lie: itself, or where the list of images is."""
    listed = images.endswith(".parquet") or is_file(images)
    return images.rpartition("/")[0] if listed else images


def write_catalogue(images: str, place: str) -> None:
    """List the images of a folder and its subfolders, or of a text file with one path a line.

    A UsageError if they cannot be listed, or there are none.
    """
    paths = _lines(images) if is_file(images) else _files(images)
    first = list(islice(paths, 1))
    if not first:
        raise UsageError(f"{images}: there are no images; give another folder or list.")
    pa = arrow()
    schema = pa.schema([("path", pa.string())])
    paths = chain(first, paths)
    with new_file(place) as file, pa.parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(paths, _ROWS)):
            readable = [p.encode("utf-8", "backslashreplace").decode("utf-8") for p in group]
            writer.write_table(pa.table({"path": readable}, schema))


@dataclass(frozen=True)
class Catalogue:
    """A Parquet file, or a folder of such, with a column ``path``."""

    place: str
    rows: int  # a path may come twice
    size: int  # bytes

    @classmethod
    def at(cls, place: str) -> Catalogue:
        """Opens one (UsageError if it is none)."""
        dataset, system = _opened(place)
        if "path" not in dataset.schema.names:
            raise UsageError(f"{place}: there is no column named path; name the one of paths so.")
        columns = chain.from_iterable(part.physical_schema for part in dataset.get_fragments())
        if any(map(_is_special, columns)):
            raise UsageError(
                f"{place}: a column has a type of a library, not one of Parquet's own; write the "
                f"paths alone."
            )
        size = sum(system.size(file) for file in dataset.files)
        return cls(place, dataset.count_rows(), size)

    def paths(self) -> Iterator[list[str]]:
        """The paths, some thousands at a time."""
        dataset, _ = _opened(self.place)
        for batch in dataset.to_batches(columns=["path"], batch_size=_ROWS, batch_readahead=1):
            yield [str(path) for path in batch.column(0).to_pylist() if path is not None]


def _opened(place: str) -> tuple[Any, Any]:
    """The Arrow dataset of a place and its file system."""
    pa = arrow()
    system, path = file_system(place)
    try:
        return pa.dataset.dataset(path, filesystem=system, format="parquet"), system
    except (pa.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{place}: this is no Parquet file of paths ({said}).") from error


def _is_special(field: Any) -> bool:  # noqa: ANN401
    """Whether a column's type is an extension: whoever knows it may run what the file says."""
    named = b"ARROW:extension:name" in (field.metadata or {})
    return named or isinstance(field.type, arrow().BaseExtensionType)


def _files(folder: str) -> Iterable[str]:
    found = (path for path in files_below(folder) if is_image_name(path))
    # Folders are not read twice, so that what is hidden is told from the path below this one.
    return (path for path in found if not any(part.startswith(".") for part in path.split("/")))


def _lines(place: str) -> Iterable[str]:
    if (path := local_path(place)) is not None:
        return iter(read_lines(Path(path)))
    with scratch_file("images.txt") as copy:
        fetch(place, copy)
        return iter(read_lines(copy))


def numbered(
    paths: Iterable[str], root: str, shards: int, without: frozenset[str]
) -> Iterator[tuple[int, str]]:
    """The paths with the numbers of their shards, but for places of images to leave out.

    See `root_of` for the root; ``without`` has places as `joined` gives them.
    """
    return ((shard_of(p, shards), p) for p in paths if joined(root, p) not in without)


def numbered_table(
    table: Table, root: str, shards: int, missing: frozenset[int], without: frozenset[str]
) -> Table:
    """As `numbered`, for a table with the column ``path``, and only the shards that are missing."""
    pa = arrow()
    paths = (path for path in table["path"].to_pylist() if path is not None)
    pairs = numbered(paths, root, shards, without)
    rows = [{"shard": number, "path": path} for number, path in pairs if number in missing]
    return pa.Table.from_pylist(rows, pa.schema([("shard", pa.int64()), ("path", pa.string())]))
