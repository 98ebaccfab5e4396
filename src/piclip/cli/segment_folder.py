"""The work of ``piclip segment``: many files, some of them bad, stopped and taken up again."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from piclip import FewShotSegmenter, Segmentation
from piclip.annotation.journal import stamp_of
from piclip.cli.console import progress_bar
from piclip.errors import ImageError, OutputError, UsageError
from piclip.io.documents import check_regular, read_json
from piclip.io.images import list_images
from piclip.io.outputs import write_json

FILE_NAME = "results.json"
_OVERLAYS = "overlays"
_ADVICE = "choose another --output, or add --overwrite to start over"


@dataclass
class RunRecord:
    """``results.json``: the images of an output folder, done and failed, and how they were made.

    Attributes:
        folder: The output folder.
        settings: What decides about the masks; results made with others are never mixed in.
        images: One entry per query file, in order, under its absolute path.
    """

    folder: Path
    settings: dict[str, Any]
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any], *, overwrite: bool) -> RunRecord:
        """Take up the record of an earlier run, or start one.

        Args:
            folder: The output folder; it need not exist.
            settings: The settings of this run, as JSON reads them back.
            overwrite: Start over, whatever is there.

        Raises:
            UsageError: The folder's record is damaged or was made with other settings.
        """
        path = folder / FILE_NAME
        if overwrite or not path.is_file():
            return cls(folder, settings)
        try:
            data = read_json(path)
            earlier = dict(data["settings"])
            entries = {entry["file"]: dict(entry) for entry in data["images"]}
            done = {file: e for file, e in entries.items() if e["status"] == "done" and e["mask"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is no record of an earlier run; {_ADVICE}.") from error
        changed = [key for key in settings if earlier.get(key) != settings[key]]
        if changed:
            raise UsageError(
                f"{folder} holds results that were made with other settings "
                f"({', '.join(changed)}); {_ADVICE}."
            )
        return cls(folder, settings, done)

    def name_outputs(self, queries: Sequence[Path], *, overwrite: bool) -> dict[Path, str]:
        """Choose the stem of each query's outputs, no two alike; earlier results keep theirs.

        Raises:
            UsageError: A mask of that name is there already and no run of piclip has made it.
        """
        names: dict[Path, str] = {}
        taken = {Path(entry["mask"]).stem.casefold() for entry in self.images.values()}
        stems = Counter(query.stem.casefold() for query in queries)
        for query in queries:
            if (entry := self.images.get(_key(query))) is not None:
                names[query] = Path(entry["mask"]).stem
                continue
            first = query.stem if stems[query.stem.casefold()] == 1 else query.name
            candidates = chain([first, query.name], (f"{query.name}-{k}" for k in count(2)))
            names[query] = next(name for name in candidates if name.casefold() not in taken)
            taken.add(names[query].casefold())
        if not overwrite and not (self.folder / FILE_NAME).is_file():
            for name in names.values():
                if (self.folder / f"{name}.png").exists():
                    raise UsageError(f"{self.folder} holds a file {name}.png already; {_ADVICE}.")
        return names

    def is_done(self, query: Path, *, overlay: bool) -> bool:
        """Whether the outputs of this very file are there."""
        entry = self.images.get(_key(query))
        if entry is None or entry["status"] != "done":
            return False
        outputs = [entry["mask"], *([entry.get("overlay")] if overlay else [])]
        there = all(output and (self.folder / output).is_file() for output in outputs)
        try:
            return there and entry.get("source") == source_of(query)
        except ImageError:
            return False

    def add(self, query: Path, status: str, **more: object) -> None:
        """Note that a query is "done" or "failed", and what more is to say."""
        self.images[_key(query)] = {"file": _key(query), "status": status, **more}

    def entries(self, queries: Iterable[Path], status: str) -> list[dict[str, Any]]:
        """The entries of these queries that have this status."""
        found = [self.images.get(_key(query), {}) for query in queries]
        return [entry for entry in found if entry.get("status") == status]

    def reasons(self, queries: Iterable[Path]) -> list[str]:
        """Why queries failed, each with its file's name."""
        failed = [(Path(e["file"]).name, str(e["reason"])) for e in self.entries(queries, "failed")]
        return [reason if name in reason else f"{name}: {reason}" for name, reason in failed]

    def as_json(self) -> dict[str, Any]:
        """What ``results.json`` holds."""
        return {"settings": self.settings, "images": list(self.images.values())}

    def write(self) -> None:
        """Write ``results.json`` (OutputError if that fails)."""
        write_json(self.as_json(), self.folder / FILE_NAME)


def _key(query: Path) -> str:
    return os.path.abspath(query)  # noqa: PTH100 - keeps links, which Path.resolve would follow


def source_of(query: Path) -> dict[str, int]:
    """Tells a changed file from the one that was segmented (ImageError if it is gone)."""
    size, modified = stamp_of(query)
    return {"bytes": size, "modified_ns": modified}


def query_files(queries: Iterable[Path], output: Path, labelled: Iterable[Path]) -> list[Path]:
    """The files to segment, each once; neither they nor the labelled ones lie in the output.

    Raises:
        ImageError: A file or folder is not there, or a folder has no images.
        UsageError: Results would go where a file to read lies.
    """
    files = {file.resolve(): file for query in queries for file in list_images(query)}
    outputs = {output.resolve(), (output / _OVERLAYS).resolve()}
    for path in (*files.values(), *labelled):
        if path.resolve().parent in outputs:
            raise UsageError(
                f"The results would go to {output}, where {path.name}, one of the files to read, "
                f"lies and might be overwritten; choose another --output."
            )
    return list(files.values())


def digest(path: Path) -> str:
    """The SHA-256 of a labelled file's content (ImageError if it cannot be read)."""
    try:
        check_regular(path)
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the file.") from error


def segment_files(
    segmenter: FewShotSegmenter,
    record: RunRecord,
    names: Mapping[Path, str],
    *,
    overlay: bool,
    threshold: float | None,
    min_presence: float,
    batch_size: int,
    max_pixels: int,
) -> None:
    """Segment files, write their masks, and note in the record, batch by batch, how it went.

    Args:
        segmenter: It has learned the classes.
        record: Also written when this ends early.
        names: The files, and the stem of each one's outputs.
        overlay: Write overlays too.
        threshold: Least score of a class; None for the model's own.
        min_presence: Classes that are less likely to be in an image get no pixel.
        batch_size: How many images are segmented together.
        max_pixels: Larger images are refused.

    Raises:
        OutputError: A result cannot be written.
    """
    with progress_bar() as bar:
        task = bar.add_task("Segmenting", total=len(names))

        def failed(query: object, error: Exception) -> None:
            record.add(Path(str(query)), "failed", reason=str(error))
            bar.advance(task)

        results = segmenter.stream(
            names,
            on_error=failed,
            batch_size=batch_size,
            threshold=threshold,
            min_presence=min_presence,
            max_pixels=max_pixels,
        )
        try:
            for number, result in enumerate(results, start=1):
                query = Path(str(result.source))
                try:
                    _save(record, query, result, name=names[query], overlay=overlay)
                except ImageError as error:  # it vanished in the meantime
                    failed(query, error)
                else:
                    bar.advance(task)
                if number % batch_size == 0:
                    record.write()
        finally:
            record.write()


def _save(
    record: RunRecord, query: Path, result: Segmentation, *, name: str, overlay: bool
) -> None:
    source = source_of(query)
    try:
        files = result.save(record.folder, overlay=overlay, name=name, overwrite=True)
    except OutputError as error:
        done = len(record.entries(map(Path, record.images), "done"))
        raise OutputError(f"{error} {done} finished images are kept.") from error
    height, width = result.size
    inside = result.mask
    record.add(
        query,
        "done",
        **{kind: str(path.relative_to(record.folder)) for kind, path in files.items()},
        width=width,
        height=height,
        share=round(float(inside.mean()), 6),
        shares={name: round(float(result.mask_of(name).mean()), 6) for name in result.class_names},
        presence=result.presence_by_class,
        mean_score=round(float(np.mean(result.score)), 6),
        mean_score_inside=round(float(result.score[inside].mean()), 6) if inside.any() else None,
        source=source,
    )
