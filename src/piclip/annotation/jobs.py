"""The one engine of all jobs that go through many images, resumable, on one process or more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from piclip.annotation.answers import How, answers, changed
from piclip.annotation.journal import ADVICE, Entry, Journal
from piclip.annotation.queries import Failure, Queries, Query, own_names, stamp_of
from piclip.annotation.sinks import MaskFiles, Regions, Sink
from piclip.annotation.workers import answers_of_workers
from piclip.errors import ImageError, UsageError
from piclip.formats.cleaning import AS_FOUND, Cleaning
from piclip.formats.label_files import written
from piclip.io.images import stem_of
from piclip.io.outputs import ensure_folder, remove_unfinished
from piclip.io.ownership import owned
from piclip.results import OVERLAYS
from piclip.segmenter import FewShotSegmenter

RESULTS = "results.json"  # what a folder of masks says about them, for people and programs


class Job:
    """Images, where their results go, and a journal of how far it is.

    Whatever ends a run early, what is finished is kept, and the next run of the same job goes on.
    """

    def __init__(self, queries: Queries, sink: Sink, journal: Journal) -> None:
        self.queries, self.sink, self.journal = queries, sink, journal
        self.waiting = [number for number, query in enumerate(queries) if not self._has(query)]
        self.earlier = len(queries) - len(self.waiting)
        self.finished = 0

    def run(
        self,
        segmenter: FewShotSegmenter,
        how: How,
        *,
        workers: int = 1,
        on_progress: Callable[[int], object] = lambda tried: None,
    ) -> None:
        """Segment the images that wait, with the same result on any number of processes.

        Calls ``on_progress`` after each image with the number of images tried so far.

        Raises:
            OutputError: A result or the journal cannot be written.
            UsageError: ``workers`` is less than 1.
            PiclipError: A process ended unexpectedly.
        """
        if workers < 1:
            raise UsageError(f"The number of workers must be 1 or more, not {workers}.")
        if not self.waiting:
            return
        queries = (self.queries[number] for number in self.waiting)
        if workers == 1:
            entries = answers(segmenter, queries, self.sink, how)
        else:
            entries = answers_of_workers(segmenter, queries, self.sink, how, workers)
        with closing(entries):  # an error ends the threads that write before anybody tidies up
            for tried, entry in enumerate(entries, start=1):
                self.journal.append(entry)
                self.finished += entry.reason is None
                on_progress(tried)

    def failures(self) -> list[Failure]:
        """The images that have no result after a run, or changed meanwhile."""
        return [
            Failure(query.path, self.journal.reason(query.path) or changed(query.file))
            for query in map(self.queries.__getitem__, self._failed())
        ]

    def done(self) -> Iterator[Query]:
        """The images that have their result, in order."""
        failed = set(self._failed())
        return (query for number, query in enumerate(self.queries) if number not in failed)

    def _failed(self) -> list[int]:
        return [number for number in self.waiting if not self._has(self.queries[number])]

    def _has(self, query: Query) -> bool:
        """Whether the result of this very image is there."""
        try:
            stamp = stamp_of(query.file)
        except ImageError:
            return False
        return self.journal.has(query.path, stamp) and self.sink.holds(self.journal, query.path)


@contextmanager
def mask_job(
    files: Iterable[str],
    output: Path,
    settings: dict[str, Any],
    *,
    overlays: bool = False,
    cleaning: Cleaning = AS_FOUND,
    overwrite: bool = False,
) -> Iterator[Job]:
    """A job that writes a mask per image, and at its end, also an early one, ``results.json``.

    Args:
        files: The images' absolute paths, each once.
        output: The folder for the masks; made if need be.
        settings: What decides about the masks, as JSON reads it back; never mixed with others.
        overlays: Write overlays too.
        cleaning: What becomes of the masks before.
        overwrite: Start over, whatever is there.

    Raises:
        OutputError: The folder cannot be written, or is being written by another run.
        UsageError: The folder holds other results, or files that no run of piclip has made.
    """
    path = output / "results.journal"
    with (
        _there(output),
        _there(output / OVERLAYS if overlays else output),
        owned(output, output / ".piclip.lock"),
    ):
        for folder in (output, output / OVERLAYS):
            remove_unfinished(folder)
        queries = Queries(list(files))
        if not overwrite and not path.exists():
            _refuse_others(queries, output)
        with Journal(path, settings, overwrite=overwrite) as journal:
            job = Job(queries, MaskFiles(output, overlays, cleaning), journal)
            if job.waiting:
                job.queries = _with_names(queries, journal)
            try:
                yield job
            finally:
                if not len(journal):
                    path.unlink(missing_ok=True)
                elif path.exists():  # else the folder was taken away, and is not made again
                    with written(output / RESULTS) as out:
                        out.writelines(results_of(journal))


@contextmanager
def region_job(
    queries: Queries, output: Path, settings: dict[str, Any], *, overwrite: bool = False
) -> Iterator[Job]:
    """A job that keeps regions in the journal beside an output, for `piclip.annotation.export`.

    The ``output`` is the file or folder of labels that is written later; settings, overwrite and
    errors are as in `mask_job`.
    """
    path = journal_path(output)
    with (
        owned(output, path.with_name(path.name + ".lock")),
        Journal(path, settings, overwrite=overwrite) as journal,
    ):
        yield Job(queries, Regions(), journal)


def journal_path(output: Path) -> Path:
    """Where the finished images of a file or folder of labels are kept: beside it."""
    return output.with_name(output.name + ".journal")


def results_of(journal: Journal, *, ascii_only: bool = False) -> Iterator[str]:
    """The text of ``results.json``, part by part: the settings and one entry per line."""
    encode = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False).encode
    yield f'{{"settings": {encode(journal.settings)},\n"images": ['
    for number, entry in enumerate(journal.entries()):
        yield (",\n" if number else "\n") + encode(_result(entry))
    yield "\n]}\n"


@contextmanager
def _there(folder: Path) -> Iterator[None]:
    """A folder, which is not left behind if nothing came into it."""
    new = not folder.exists()
    ensure_folder(folder)
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _result(entry: Entry) -> dict[str, Any]:
    if entry.reason is not None:
        return {"file": entry.path, "status": "failed", "reason": entry.reason}
    size, changed = entry.stamp or (None, None)
    source = {"bytes": size, "modified_ns": changed}
    return {"file": entry.path, "status": "done", **entry.found, "source": source}


def _with_names(queries: Queries, journal: Journal) -> Queries:
    def earlier(path: str) -> str | None:
        mask = journal.read(path).found.get("mask") if path in journal else None
        return None if mask is None else stem_of(mask)

    taken = (stem_of(e.found["mask"]) for e in journal.entries() if e.reason is None)
    return replace(queries, names=own_names(queries.paths, earlier, taken))


def _refuse_others(queries: Queries, output: Path) -> None:
    """Refuse a folder without a journal in which other files would be replaced."""
    if (output / RESULTS).exists():
        raise UsageError(f"{output / RESULTS} is no record of a run to go on with; {ADVICE}.")
    names = own_names(queries.paths, lambda path: None, ())
    for path in queries.paths:
        mask = output / f"{names.get(path) or stem_of(path)}.png"
        if mask.exists():
            raise UsageError(f"{output} holds a file {mask.name} already; {ADVICE}.")
