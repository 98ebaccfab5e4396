"""Peak memory of the passes of the speed benchmark, each in a fresh process."""

from __future__ import annotations

import ctypes
import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from piclip.errors import PiclipError
from piclip.evaluation.benchmarks.workload import (
    MANY,
    Workload,
    plain_forward,
    query_priors,
    random_classes,
    random_encoder,
    random_image,
    random_query,
    random_segmenter,
)
from piclip.io.processes import worker_pool

RESET = Path("/proc/self/clear_refs")
"""Of the kernel's high-water mark of resident memory; Linux alone has it."""


def peak_memory(
    workload: Workload, threads: int, tasks: Sequence[str] = ("plain", "priors", "predict_large")
) -> dict[str, float]:
    """Peaks above what is loaded, in MiB: a plain pass, one class's priors, a large photograph.

    Each is measured in a fresh process. Resident memory counts everything, the buffers of the
    matrix library included, which a tensor profiler does not see.

    Returns:
        Those of the tasks; empty where the system does not tell (other than Linux).

    Raises:
        PiclipError: A measuring process failed.
    """
    peaks: dict[str, float] = {}
    for task in tasks if RESET.exists() else ():
        with worker_pool(1, threads) as pool:
            try:
                peaks[task] = pool.submit(_measure, task, workload).result()
            except Exception as error:  # any, of a process that was killed too
                reason = traceback.format_exception_only(error)[-1].strip()
                raise PiclipError(
                    f"The process that measures memory failed ({reason}); close other programs "
                    f"and rerun."
                ) from error
    return peaks


def _measure(task: str, workload: Workload) -> float:
    """MiB by which the peak rises in one pass, after a small image has warmed the libraries up."""
    for run in _passes(task, workload):
        gc.collect()
        # Gives freed heap back, so that the run cannot reuse it unseen.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        RESET.write_text("5")  # see proc(5)
        before = _status("VmRSS")
        run()
    return _status("VmHWM") - before


def _passes(task: str, workload: Workload) -> Iterator[Callable[[], object]]:
    """The pass over a small image and the one that is measured."""
    encoder = random_encoder(workload)
    if task == "predict_large":
        segmenter = random_segmenter(encoder, workload, MANY)
        for shape in ((32, 32), workload.large):
            yield partial(segmenter.predict, random_image(workload, 0).resize(shape))
        return
    for size in (replace(workload, image_size=2 * workload.patch_size), workload):
        pixels = random_query(size)
        if task == "plain":
            yield partial(plain_forward, encoder, pixels)
        else:
            classes = random_classes(size, 1, encoder.dtype)
            yield partial(query_priors, encoder, pixels, classes)


def _status(field: str) -> float:
    """What the system says of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise PiclipError(f"The system does not report {field}, so memory cannot be measured here.")
