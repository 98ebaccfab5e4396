"""Speed and memory of the priors beside transformers' plain forward pass of the same image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from piclip.clip.encoder import Encoder
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.memory import peak_memory
from piclip.evaluation.benchmarks.workload import (
    CachedClasses,
    Workload,
    plain_forward,
    query_priors,
    random_classes,
    random_encoder,
    random_query,
)
from piclip.io.outputs import Progress

TARGETS = {
    "one_class": 1.20,
    "extra_class": 0.10,
    "twenty_classes": 3.0,
    "bf16_over_fp32": 0.5,
    "memory": 2.0,
}
"""The most that each ratio may be."""

_MANY = 20  # classes
_MIB = 2**20


@dataclass(frozen=True)
class SpeedReport:
    """Ratios to transformers' forward pass of the same image, and what they come from.

    Attributes:
        one_class: Priors of one query and one class (VTP, VVP of both blocks, PIR) with cached
            texts and supports, the query's encoding included.
        extra_class: What each further class adds, mean over the second to the twentieth.
        twenty_classes: Priors of twenty classes.
        bf16_over_fp32: Time of one class in bfloat16 over float32; None where the processor has no
            AMX, without which bfloat16 is emulated.
        memory: Peak memory above the loaded model, one class over plain; None where the system
            does not tell.
        plain_seconds: Median of the plain forward pass.
        stages: Median seconds of each stage of one class.
        stages_twenty: Median seconds of each stage of twenty classes.
        memory_mib: Peak above the loaded model of "plain" and "priors" in MiB; empty if unknown.
        threads: Threads of torch.
        rounds: Rounds whose medians these are.
        workload: Sizes of model and image.
    """

    one_class: float
    extra_class: float
    twenty_classes: float
    bf16_over_fp32: float | None
    memory: float | None
    plain_seconds: float
    stages: dict[str, float]
    stages_twenty: dict[str, float]
    memory_mib: dict[str, float]
    threads: int
    rounds: int
    workload: Workload

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """The table for people: (what, ratio, target)."""
        names = {
            "one_class": "one class / plain forward",
            "extra_class": "each further class / plain forward",
            "twenty_classes": "20 classes / plain forward",
            "bf16_over_fp32": "bfloat16 / float32",
            "memory": "peak memory / plain forward",
        }
        missing = {"bf16_over_fp32": "no AMX", "memory": "not measurable here"}
        table = []
        for field, name in names.items():
            value = getattr(self, field)
            shown = missing[field] if value is None else f"{value:.3f}"
            table.append((name, shown, f"<= {TARGETS[field]:.2f}"))
        return table

    def breakdown(self) -> list[tuple[str, str, str]]:
        """Where the time goes: (stage, one class, 20 classes), each over the plain forward."""
        return [
            (
                stage,
                f"{self.stages[stage] / self.plain_seconds:.3f}",
                f"{self.stages_twenty[stage] / self.plain_seconds:.3f}",
            )
            for stage in self.stages
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

    Args:
        workload: Sizes; by default ViT-B/16 at 480 x 480.
        threads: Threads of torch while measuring.
        rounds: How many rounds, after one that is not counted.
        measure_memory: Also measure peak memory, each pass in a fresh process.
        on_round: Called after each round with its number and the total.

    Returns:
        The ratios and the medians they come from.

    Raises:
        UsageError: Fewer than one round or thread.
    """
    if rounds < 1 or threads < 1:
        raise UsageError("The benchmark needs at least one round and one thread.")
    workload = workload or Workload()
    with _threads(threads):
        times = _time_rounds(workload, rounds, on_round)
    plain = median(times.plain)
    one, twenty = (median(sum(run.values()) for run in runs) for runs in (times.one, times.many))
    memory = _memory(workload, threads) if measure_memory else {}
    return SpeedReport(
        one_class=one / plain,
        extra_class=(twenty - one) / (_MANY - 1) / plain,
        twenty_classes=twenty / plain,
        bf16_over_fp32=median(times.bfloat16) / one if times.bfloat16 else None,
        memory=memory["priors"] / memory["plain"] if memory else None,
        plain_seconds=plain,
        stages=_stage_medians(times.one),
        stages_twenty=_stage_medians(times.many),
        memory_mib=memory,
        threads=threads,
        rounds=rounds,
        workload=workload,
    )


@dataclass(frozen=True)
class _Times:
    plain: list[float]
    one: list[dict[str, float]]
    many: list[dict[str, float]]
    bfloat16: list[float]


def _time_rounds(workload: Workload, rounds: int, on_round: Progress | None) -> _Times:
    encoder, pixels = random_encoder(workload), random_query(workload)
    classes = random_classes(workload, _MANY, encoder.dtype)
    half = random_encoder(workload, "bfloat16") if has_amx() else None
    half_classes = random_classes(workload, 1, torch.bfloat16)
    times = _Times([], [], [], [])
    for number in range(rounds + 1):
        plain = _plain_seconds(encoder, pixels)
        one = query_priors(encoder, pixels, classes.first(1))
        many = query_priors(encoder, pixels, classes)
        reduced = _bfloat16_seconds(half, pixels, half_classes)
        if number > 0:  # the first round warms up
            times.plain.append(plain)
            times.one.append(one)
            times.many.append(many)
            times.bfloat16.extend(reduced)
            if on_round is not None:
                on_round(number, rounds)
    return times


def _plain_seconds(encoder: Encoder, pixels: Tensor) -> float:
    start = time.perf_counter()
    plain_forward(encoder, pixels)
    return time.perf_counter() - start


def _bfloat16_seconds(
    encoder: Encoder | None, pixels: Tensor, classes: CachedClasses
) -> list[float]:
    if encoder is None:
        return []
    return [sum(query_priors(encoder, pixels, classes).values())]


def _stage_medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {stage: median(run[stage] for run in runs) for stage in runs[0]}


def _memory(workload: Workload, threads: int) -> dict[str, float]:
    """Peaks in MiB of "plain" and "priors"; empty where they cannot be measured."""
    peaks = {task: peak_memory(task, workload, threads) for task in ("plain", "priors")}
    return {task: peak / _MIB for task, peak in peaks.items() if peak is not None}


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (Intel AMX, on Linux)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
