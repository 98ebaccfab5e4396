"""Processes that share work and end with the one that started them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

WORKER_ENDED = (
    "A worker process ended unexpectedly, perhaps for want of memory; run the same command again "
    "with fewer workers"
)
"""What a BrokenProcessPool of `worker_pool` means, without the full stop."""


def worker_pool(
    processes: int, threads: int = 1, start: Callable[..., None] | None = None, *arguments: object
) -> ProcessPoolExecutor:
    """Processes that work for this one and end with it, even if it is killed.

    They are started anew (spawn), with so many threads of torch in each, and call ``start`` first.
    """
    first = (threads, start, arguments)
    return ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, first)


def _start_worker(
    threads: int, start: Callable[..., None] | None, arguments: tuple[object, ...]
) -> None:
    import torch  # noqa: PLC0415

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)  # a parent that is killed cannot stop its children itself
