"""Images through one fitted segmenter into one keeper: read, segmented and kept, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from piclip.annotation.journal import Entry
from piclip.annotation.queries import Query, Stamp, stamp_of
from piclip.annotation.sinks import Keeper
from piclip.errors import ImageError, OutputError, PiclipError
from piclip.io.images import MAX_PIXELS
from piclip.results import MIN_PRESENCE, Segmentation
from piclip.segmenter import FewShotSegmenter


@dataclass(frozen=True)
class How:
    """How images are segmented, as `FewShotSegmenter.stream` takes it."""

    threshold: float | None = None  # least score of a class; None for the model's own
    min_presence: float = MIN_PRESENCE  # classes less likely to be in an image get no pixel
    batch_size: int = 8  # how many images are segmented together
    max_pixels: int = MAX_PIXELS  # larger images are refused


def answers(
    segmenter: FewShotSegmenter, queries: Iterable[Query], keeper: Keeper, how: How
) -> Generator[Entry, None, None]:
    """Segment images and keep their results, in order, in memory that does not grow.

    While some images are segmented, a thread reads the next ones and another has the ``keeper``
    keep what was found in those before. An image that cannot be read, or kept, gives an entry with
    the reason; an OutputError, that a result cannot be written, ends it.
    """
    asked: deque[tuple[Query, Stamp | Entry]] = deque()  # without an answer yet, in order
    answered: deque[Future[Entry]] = deque()

    def files() -> Iterator[Path]:
        for query in queries:
            try:
                stamp = stamp_of(query.file)  # before it is read: changed meanwhile, it is stale
            except ImageError as error:
                asked.append((query, Entry(query.path, None, reason=str(error))))
            else:
                asked.append((query, stamp))
                yield Path(query.file)

    def next_asked() -> tuple[Query, Stamp]:
        """The image that the segmenter's next word is about."""
        while True:
            query, stamp = asked.popleft()
            if not isinstance(stamp, Entry):
                return query, stamp
            answered.append(_known(stamp))

    def failed(_: object, error: PiclipError) -> None:
        query, stamp = next_asked()
        answered.append(_known(Entry(query.path, stamp, reason=str(error))))

    results = segmenter.stream(files(), on_error=failed, **vars(how))
    with ThreadPoolExecutor(1) as writer:
        try:
            for result in results:
                answered.append(writer.submit(_kept, keeper, *next_asked(), result))
                while len(answered) >= how.batch_size:
                    yield answered.popleft().result()
        except (Exception, KeyboardInterrupt):  # what has its result is kept all the same
            while answered:
                yield answered.popleft().result()
            raise
        while answered:
            yield answered.popleft().result()
        yield from (entry for _, entry in asked if isinstance(entry, Entry))


def _kept(keeper: Keeper, query: Query, stamp: Stamp, result: Segmentation) -> Entry:
    try:
        found, files = keeper.keep(query, result)
        if stamp_of(query.file) != stamp:
            return Entry(query.path, stamp, reason=changed(query.file))
    except OutputError:
        raise
    except PiclipError as error:
        return Entry(query.path, stamp, reason=str(error))
    return Entry(query.path, stamp, found, files=tuple(files))


def changed(file: str) -> str:
    """What is said of an image that is no longer the one that was read."""
    return f"{file}: the image vanished or changed meanwhile; run the same command again."


def _known(entry: Entry) -> Future[Entry]:
    done: Future[Entry] = Future()
    done.set_result(entry)
    return done
