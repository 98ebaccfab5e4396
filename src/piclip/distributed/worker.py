"""Whoever works on shards, one after the other: this process, or an actor of a cluster."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from piclip.annotation.answers import How, answers
from piclip.annotation.journal import Entry
from piclip.annotation.parquet import Row, write_rows
from piclip.annotation.queries import Query
from piclip.annotation.sinks import Regions
from piclip.distributed.shards import Shards
from piclip.errors import PiclipError
from piclip.io.images import image_size
from piclip.io.storage import exists, fetch, joined, local_path, new_file
from piclip.segmenter import FewShotSegmenter

_FETCHED_AT_ONCE, _FETCHED_AHEAD = 8, 32
_SORTED_AT_ONCE = 64
_FEW = 10  # so many images may all be missing; more of them, and it is the storage that is


@dataclass(frozen=True)
class Worker:
    """Makes shards, with a segmenter that has learned the classes."""

    segmenter: FewShotSegmenter
    shards: Shards
    how: How

    def work(self, number: int, paths: Iterable[str]) -> tuple[int, int]:
        """Annotate the images of a shard, unless it is there, and write it.

        The paths are all of its images, in any order, each once or more often. Gives how many it
        has, and how many of them failed; a PiclipError if none of many images can be opened.
        """
        if exists(self.shards.place(number)):
            return self.shards.counts([number])
        # Sorted, whoever works on it groups the images alike, and finds the same.
        images = sorted(set(paths))
        failed = opened = 0

        def rows() -> Iterator[Row]:
            nonlocal failed, opened
            for entry in self._entries(images):
                failed += entry.reason is not None
                opened += entry.stamp is not None
                yield {"path": entry.path, "reason": entry.reason, **entry.found}

        with new_file(self.shards.place(number)) as file:
            write_rows(rows(), file)
            if opened == 0 and len(images) > _FEW:
                raise PiclipError(
                    f"None of the {len(images)} images of a shard can be opened, {images[0]} for "
                    f"one; see that {self.shards.images} is there and that you may read it, and "
                    f"run the same command again: what is finished is kept."
                )
        return len(images), failed

    def _entries(self, images: list[str]) -> Iterator[Entry]:
        """What becomes of each image; those that are elsewhere are fetched ahead, and removed."""
        failures: dict[str, str] = {}
        files: dict[str, Path] = {}
        with TemporaryDirectory(prefix="piclip-") as folder:

            def copied(number: int, path: str) -> Query:
                place = joined(self.shards.images, path)
                if (own := local_path(place)) is not None:
                    return Query(path, own)
                name = f"{Path(folder).name}-{number}{PurePosixPath(place).suffix[:10]}"
                copy = files[path] = Path(folder) / name
                try:
                    fetch(place, copy)
                except PiclipError as error:
                    failures[path] = str(error)
                    copy.unlink(missing_ok=True)
                return Query(path, str(copy))

            with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
                waiting: deque[Future[Query]] = deque()

                def queries() -> Iterator[Query]:
                    for number, path in enumerate(images):
                        waiting.append(pool.submit(copied, number, path))
                        if len(waiting) > _FETCHED_AHEAD:
                            yield waiting.popleft().result()
                    while waiting:
                        yield waiting.popleft().result()

                grouped = _by_size(queries())
                for entry in answers(self.segmenter, grouped, Regions(), self.how):
                    copy = files.pop(entry.path, None)
                    if copy is None:
                        yield entry
                        continue
                    copy.unlink(missing_ok=True)
                    reason = failures.pop(entry.path, entry.reason)
                    if reason is not None:
                        place = joined(self.shards.images, entry.path)
                        reason = reason.replace(str(copy), place).replace(copy.name, place)
                    yield replace(entry, reason=reason)


def _by_size(queries: Iterator[Query]) -> Iterator[Query]:
    """Some images at a time, those of one size after each other: a model sees these together."""
    while several := list(islice(queries, _SORTED_AT_ONCE)):
        yield from sorted(several, key=lambda query: _size(query.file))


def _size(file: str) -> tuple[float, float]:
    try:
        return image_size(Path(file))
    except PiclipError:  # whoever reads it says what is wrong
        return math.inf, math.inf


def saved_files(segmenter: FewShotSegmenter) -> dict[str, bytes]:
    """The files that `FewShotSegmenter.load` needs, by name."""
    with TemporaryDirectory(prefix="piclip-") as folder:
        segmenter.save(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}
