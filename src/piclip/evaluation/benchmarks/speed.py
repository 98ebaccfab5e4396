"""Speed and memory of priors and masks beside transformers' plain forward pass of the same image.

What runs is a CLIP with random weights, one query, and classes with cached texts and supports: how
long it takes does not depend on the values.
"""

from __future__ import annotations

import ctypes
import gc
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from piclip.errors import PiclipError, UsageError
from piclip.evaluation.benchmarks.workload import (
    MANY,
    SEGMENTED,
    Workload,
    has_bfloat16,
    plain_forward,
    query_priors,
    random_classes,
    random_encoder,
    random_image,
    random_query,
    random_segmenter,
    reference_priors,
    segment_files,
)
from piclip.io.outputs import Progress
from piclip.io.processes import worker_pool

RATIOS: dict[str, tuple[str, float | None]] = {
    # Priors of one query (VTP, VVP of both blocks, PIR) with cached texts and supports, the query's
    # encoding included; each further class is the mean over the second to the twentieth.
    "one_class": ("one class / plain forward", 1.20),
    "extra_class": ("each further class / plain forward", 0.10),
    "twenty_classes": ("20 classes / plain forward", 3.0),
    # See `reference_priors`.
    "reference_one_class": ("one class as published / plain forward", None),
    "reference_twenty_classes": ("20 classes as published / plain forward", None),
    # `FewShotSegmenter.fit` and `predict`, end to end: an image in memory to its mask.
    "fit": ("fit, one labelled image / plain forward", None),
    "predict_one_class": ("predict, one class / plain forward", 1.35),
    "predict_twenty_classes": ("predict, 20 classes / plain forward", 3.0),
    "predict_large": ("predict, 20 classes, 12 megapixels / plain forward", 4.0),
    # Time of one class; None without AVX-512 BF16 and AMX, where bfloat16 is emulated.
    "bf16_over_fp32": ("bfloat16 / float32", None),
    # Above the loaded model, one class; None where the system does not tell.
    "memory": ("peak memory / plain forward", 2.0),
}
"""Names of a report's ratios: what each is called, and the most it may be if there is an aim."""

RESET = Path("/proc/self/clear_refs")
"""Of the kernel's high-water mark of resident memory; Linux alone has it."""


@dataclass(frozen=True)
class SpeedReport:
    """Ratios to transformers' forward pass of the same image, and the medians they come from."""

    ratios: dict[str, float | None]  # by the names of `RATIOS`; None: not measurable here
    segment_per_second: float  # images of the model's size, from JPEG files to masks in PNG files
    plain_seconds: float  # of the plain forward pass
    stages: dict[str, float]  # seconds of each stage of one class
    stages_twenty: dict[str, float]  # the same of twenty classes
    # MiB above the loaded model at the peaks of "plain" and "priors", and above the fitted
    # segmenter at that of "predict_large"; empty if unknown.
    memory_mib: dict[str, float]
    threads: int  # of torch
    rounds: int
    workload: Workload

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON; each ratio is a key of its own."""
        others = asdict(self)
        return {**others.pop("ratios"), **others}

    def rows(self) -> list[tuple[str, str, str]]:
        """The table for people: (what, ratio, target)."""
        table = []
        for key, (name, most) in RATIOS.items():
            value = self.ratios[key]
            shown = "not measurable here" if value is None else f"{value:.3f}"
            table.append((name, shown, "" if most is None else f"<= {most:.2f}"))
        return table

    def amounts(self) -> list[tuple[str, str]]:
        """What is no ratio, for people: (what, amount)."""
        large = self.memory_mib.get("predict_large")
        return [
            ("images segmented a second, one class", f"{self.segment_per_second:.2f}"),
            (
                "peak memory of predict, 20 classes, 12 megapixels, above the segmenter",
                "not measurable here" if large is None else f"{large:.0f} MiB",
            ),
        ]

    def breakdown(self) -> list[tuple[str, str, str]]:
        """Where the time goes: (stage, one class, 20 classes), each over the plain forward."""
        plain = self.plain_seconds
        return [
            (stage, f"{one / plain:.3f}", f"{self.stages_twenty[stage] / plain:.3f}")
            for stage, one in self.stages.items()
        ]


def run_speed_benchmark(
    *,
    workload: Workload | None = None,
    threads: int = 2,
    rounds: int = 9,
    measure_memory: bool = True,
    on_round: Progress | None = None,
) -> SpeedReport:
    """Measures a randomly initialised model on the CPU.

    Each round runs the plain pass, one class and twenty classes in turn, so that a change of the
    machine's pace meets all of them; the ratios are those of the medians.

    The sizes are by default those of ViT-B/16 at 480 x 480. One round more is run, which does not
    count. Peak memory is measured of each pass in a fresh process.

    Raises:
        UsageError: Fewer than one round or thread.
        PiclipError: A process that measures memory failed.
    """
    if rounds < 1 or threads < 1:
        raise UsageError("The benchmark needs at least one round and one thread.")
    workload = workload or Workload()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        times = _time_rounds(workload, rounds, on_round)
    finally:
        torch.set_num_threads(before)
    totals = {name: median(sum(run.values()) for run in runs) for name, runs in times.items()}
    one, twenty = totals["one"], totals["twenty"]
    memory = peak_memory(workload, threads) if measure_memory else {}
    seconds = {
        "one_class": one,
        "extra_class": (twenty - one) / (MANY - 1),
        "twenty_classes": twenty,
        "reference_one_class": totals["reference_one"],
        "reference_twenty_classes": totals["reference_twenty"],
        "fit": totals["fit"],
        "predict_one_class": totals["predict_one"],
        "predict_twenty_classes": totals["predict_twenty"],
        "predict_large": totals["predict_large"],
    }
    return SpeedReport(
        ratios={
            **{name: spent / totals["plain"] for name, spent in seconds.items()},
            "bf16_over_fp32": totals["bfloat16"] / one if "bfloat16" in totals else None,
            "memory": memory["priors"] / memory["plain"] if memory else None,
        },
        segment_per_second=SEGMENTED / totals["segment"],
        plain_seconds=totals["plain"],
        stages=_stage_medians(times["one"]),
        stages_twenty=_stage_medians(times["twenty"]),
        memory_mib=memory,
        threads=threads,
        rounds=rounds,
        workload=workload,
    )


def _time_rounds(
    workload: Workload, rounds: int, on_round: Progress | None
) -> dict[str, list[dict[str, float]]]:
    """Each round's seconds of the stages of each pass; bfloat16 only where there is hardware."""
    pixels, encoder = random_query(workload), random_encoder(workload)
    one, twenty = (random_classes(workload, count, encoder.dtype) for count in (1, MANY))
    segmenters = [random_segmenter(encoder, workload, count) for count in (1, MANY)]
    image = random_image(workload, 0)
    staged = {
        "one": partial(query_priors, encoder, pixels, one),
        "twenty": partial(query_priors, encoder, pixels, twenty),
    }
    if has_bfloat16():
        half = random_classes(workload, 1, torch.bfloat16)
        staged["bfloat16"] = partial(
            query_priors, random_encoder(workload, "bfloat16"), pixels, half
        )
    whole: dict[str, Callable[[], object]] = {
        "plain": partial(plain_forward, encoder, pixels),
        "reference_one": partial(reference_priors, encoder, pixels, one),
        "reference_twenty": partial(reference_priors, encoder, pixels, twenty),
        "fit": partial(random_segmenter, encoder, workload, 1),
        "predict_one": partial(segmenters[0].predict, image),
        "predict_twenty": partial(segmenters[1].predict, image),
        "predict_large": partial(segmenters[1].predict, image.resize(workload.large)),
        "segment": partial(segment_files, segmenters[0], workload),
    }
    times = defaultdict[str, list[dict[str, float]]](list)
    for number in range(rounds + 1):
        for name, run in whole.items():
            times[name].append(_seconds(name, run))
        for name, priors in staged.items():
            times[name].append(priors())
        if number > 0 and on_round is not None:
            on_round(number, rounds)
    return {name: runs[1:] for name, runs in times.items()}  # the first round warms up


def _seconds(stage: str, run: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    run()
    return {stage: time.perf_counter() - start}


def _stage_medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {stage: median(run[stage] for run in runs) for stage in runs[0]}


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
