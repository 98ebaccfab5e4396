"""Proposals as rows of a Parquet file, for single runs and for shards alike.

Columns: ``path``; ``height``, ``width`` in pixels; ``regions``, a list of ``class``, ``score`` and
``counts`` (COCO's compressed run lengths: ``{"size": [height, width], "counts": counts}`` is what
pycocotools decodes); ``presence`` by class, null where that is not known; ``certainty``, see
`piclip.annotation.sinks.certainty_of`, null for labels that were given; and ``reason``, one
sentence where nothing could be found out, else null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

from piclip.annotation.sinks import Proposal
from piclip.errors import UsageError
from piclip.io.extras import arrow

Row: TypeAlias = dict[str, Any]

_ROWS = 1000  # of a row group, which is in memory at once


def row_of(proposal: Proposal) -> Row:
    """An image with its regions as a row; `Proposal.of` reads it back."""
    return {"path": proposal.file.path, **proposal.found()}


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Write a Parquet file, with few rows in memory (OSError if that fails).

    A row of an image for which nothing could be found out has its path and the reason alone.
    """
    pa = arrow()
    schema = _schema(pa)
    rows = map(_readable, rows)
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def read_rows(
    source: str | Path | IO[bytes], columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of a file of `write_rows`, few in memory (UsageError if it is none, or damaged)."""
    pa = arrow()
    try:
        with pa.parquet.ParquetFile(source) as file:
            if not file.schema_arrow.equals(_schema(pa)):
                raise UsageError(f"{_name(source)}: this is no Parquet file of proposals.")
            for batch in file.iter_batches(_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise UsageError(
            f"{_name(source)}: this Parquet file cannot be read ({said}); remove it and run the "
            f"same command again."
        ) from error


def counts_of(source: str | Path | IO[bytes]) -> tuple[int, int]:
    """How many rows a file of `write_rows` has, and how many of them failed, from its end alone."""
    pa = arrow()
    try:
        metadata = pa.parquet.read_metadata(source)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        reasons = metadata.num_columns - 1  # the last column
        nulls = sum(group.column(reasons).statistics.null_count for group in groups)
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{_name(source)}: this Parquet file is damaged; remove it and run the same command "
            f"again."
        ) from error
    return metadata.num_rows, metadata.num_rows - nulls


def _schema(pa: Any) -> Any:  # noqa: ANN401
    number, text = pa.float64(), pa.string()
    region = pa.struct([("class", text), ("score", number), ("counts", text)])
    return pa.schema(
        [
            pa.field("path", text, nullable=False),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("regions", pa.list_(region)),
            ("presence", pa.map_(text, number)),
            ("certainty", number),
            ("reason", text),
        ]
    )


def _name(source: object) -> str:
    return str(getattr(source, "path", source))


def _readable(row: Row) -> Row:
    """A row without lone surrogates, which file names that are no valid UTF-8 hold."""
    texts = {key: row[key] for key in ("path", "reason") if row.get(key) is not None}
    for key, text in texts.items():
        texts[key] = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return row | texts
