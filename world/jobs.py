"""Trainings and evaluations that are each done once, side by side in processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeAlias

from piclip.errors import PiclipError
from piclip.evaluation.records import read_result
from piclip.io.processes import WORKER_ENDED, worker_pool

Step: TypeAlias = Callable[[], None]
"""A training or an evaluation; other processes can be sent it. It raises a PiclipError."""
Part: TypeAlias = list[tuple[Path, Step]]
"""What is done one after the other: what shows that a step is done, and the step."""


def is_done(shown: Path, seeds: int, episodes: int) -> bool:
    """Whether what shows that a step is done does so.

    Args:
        shown: A folder, a result of an evaluation or another file.
        seeds: How many seeds a result has to have.
        episodes: How many episodes of each.
    """
    if shown.suffix != ".json" or not shown.exists():
        return shown.exists()
    there = read_result(shown)
    return (len(there.seeds), there.episodes) == (seeds, episodes) and there.complete


def run(
    phases: Sequence[Sequence[Part]],
    processes: int,
    *,
    done: Callable[[Path], bool],
    log: Path,
) -> None:
    """Does all that is not done yet, each part in a process with one thread.

    Args:
        phases: Phase after phase; the parts of one in any order.
        processes: How many at once.
        done: Whether what shows that a step is done does so.
        log: File that gets what the steps print.

    Raises:
        PiclipError: A step failed, or a process ended unexpectedly; what is finished is kept.
    """
    for parts in phases:
        steps = [[step for shown, step in part if not done(shown)] for part in parts]
        with worker_pool(processes) as pool:
            jobs = [pool.submit(work, own, log) for own in steps if own]
            for number, job in enumerate(as_completed(jobs), start=1):
                try:
                    failed = job.result()
                except BrokenProcessPool as error:
                    raise PiclipError(f"{WORKER_ENDED}: what is finished is kept.") from error
                if failed:
                    pool.shutdown(cancel_futures=True)
                    raise PiclipError(f"{failed} See {log}.")
                print(f"{number} of {len(jobs)} parts done", file=sys.stderr)


def work(steps: Sequence[Step], log: Path) -> str | None:
    """Takes steps one after the other; gives what is wrong with the one that failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as out, redirect_stdout(out), redirect_stderr(out):
        for step in steps:
            try:
                step()
            except PiclipError as error:
                print(error)
                return str(error)
    return None
