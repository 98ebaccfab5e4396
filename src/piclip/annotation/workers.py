"""The same on several processes, each with a model of its own."""

from __future__ import annotations

import signal
import tempfile
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.synchronize import Event

import torch

from piclip.annotation.answers import How, answers
from piclip.annotation.journal import Entry
from piclip.annotation.queries import Query
from piclip.annotation.sinks import Sink
from piclip.errors import PiclipError
from piclip.io.processes import WORKER_ENDED, worker_pool
from piclip.segmenter import FewShotSegmenter

_WAITING = 2  # groups of images that wait for each process, beside the one that it is at


def answers_of_workers(
    segmenter: FewShotSegmenter, queries: Iterable[Query], sink: Sink, how: How, workers: int
) -> Generator[Entry, None, None]:
    """As `answers`, in the same order and with the same groups of images.

    The processes read what the segmenter has learned from a temporary folder, so its model is one
    that `FewShotSegmenter.load` finds, and share the processor's cores. Each has a copy of the
    sink. A PiclipError tells that one of them ended unexpectedly.
    """
    stop = get_context("spawn").Event()
    with tempfile.TemporaryDirectory(prefix="piclip-") as folder:
        segmenter.save(folder)
        threads = max(1, torch.get_num_threads() // workers)
        where = segmenter.device, segmenter.scorer.dtype
        pool = worker_pool(workers, threads, _start, folder, *where, sink, how, stop)
        waiting: deque[Future[list[Entry]]] = deque()
        groups = iter(queries)
        try:
            while group := list(islice(groups, how.batch_size)):
                waiting.append(pool.submit(_answers, group))
                if len(waiting) > (1 + _WAITING) * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as error:
            for future in waiting:
                if future.done() and not future.exception():
                    yield from future.result()
            raise PiclipError(f"{WORKER_ENDED}: what is finished is kept.") from error
        except KeyboardInterrupt:
            stop.set()
            with suppress(BrokenProcessPool):  # one that was still loading ended at once
                for future in waiting:
                    if not future.cancel():
                        yield from future.result()
            raise
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_work: tuple[FewShotSegmenter, Sink, How, Event]  # what a process works with


def _start(
    folder: str, device: torch.device, dtype: torch.dtype, sink: Sink, how: How, stop: Event
) -> None:
    """Make a process ready; Ctrl-C is its parent's to deal with."""
    global _work  # noqa: PLW0603  (how a pool hands something to its processes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work = FewShotSegmenter.load(folder, device=device, dtype=dtype), sink, how, stop


def _answers(group: list[Query]) -> list[Entry]:
    """What becomes of a group of images; of those that a stop leaves, nothing."""
    segmenter, sink, how, stop = _work
    return [] if stop.is_set() else list(answers(segmenter, group, sink, how))
