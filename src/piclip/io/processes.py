"""Processes that share work and end with the one that started them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
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

    They are started anew (spawn), with so many threads of torch in each, and call ``start`` first,
    which may handle SIGINT otherwise: Ctrl-C at the terminal, which reaches them all, ends them
    without a word. Where this process ignores it, so do they.
    """
    first = (threads, start, arguments)
    return ProcessPoolExecutor(processes, _Context(), _start_worker, first)


class _Process(SpawnProcess):
    """Begins with Ctrl-C held back: Python would answer it with a traceback."""

    def start(self) -> None:
        _hold_back_ctrl_c(True)
        try:
            super().start()
        finally:
            _hold_back_ctrl_c(False)


class _Context(SpawnContext):
    Process = _Process


def _hold_back_ctrl_c(held: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):  # Windows has none
        how = signal.SIG_BLOCK if held else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT})


def _start_worker(
    threads: int, start: Callable[..., None] | None, arguments: tuple[object, ...]
) -> None:
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as jobs in the background do
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _hold_back_ctrl_c(False)
    import torch  # noqa: PLC0415

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)  # a parent that is killed cannot stop its children itself
