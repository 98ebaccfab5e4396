"""Processes that share out the experiments, and the queue on which they report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from queue import Queue
from typing import Any

from piclip.evaluation.processes import end_with_parent


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
    manager.start(end_with_parent)
    with manager, ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        yield pool, manager.Queue()


def _start_worker() -> None:
    end_with_parent()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    torch.set_num_threads(1)
