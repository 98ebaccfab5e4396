"""Processes that share out the experiments, and the queue on which they report."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.managers import SyncManager
from queue import Queue
from threading import Thread
from typing import Any


@contextmanager
def worker_pool(processes: int) -> Iterator[tuple[ProcessPoolExecutor, Queue[Any]]]:
    """Starts processes with one thread each; they end with this process, even if it is killed.

    Args:
        processes: How many.

    Yields:
        The pool, and a queue that may be handed to its jobs.
    """
    context = get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_end_with_parent)
    with manager, ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        yield pool, manager.Queue()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone; one that is killed cannot stop its children."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _start_worker() -> None:
    _end_with_parent()
    import torch  # noqa: PLC0415  (the process of the queue does without)

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    torch.set_num_threads(1)
