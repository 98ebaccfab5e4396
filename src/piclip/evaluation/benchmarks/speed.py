"""Speed and memory of priors and masks beside transformers' plain forward pass of the same image.

What runs is a CLIP with random weights, one query, and classes with cached texts and supports: how
long it takes does not depend on the values.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from piclip.clip.encoder import Encoder
from piclip.clip.settings import ModelSettings
from piclip.errors import PiclipError, UsageError
from piclip.evaluation.evaluate import worker_pool
from piclip.io.outputs import Progress
from piclip.io.supports import Support
from piclip.priors import refine_prior, visual_text_prior, visual_visual_prior
from piclip.segmenter import FewShotSegmenter

RATIOS = {
    "one_class": ("one class / plain forward", 1.20, ""),
    "extra_class": ("each further class / plain forward", 0.10, ""),
    "twenty_classes": ("20 classes / plain forward", 3.0, ""),
    "predict_one_class": ("predict, one class / plain forward", 1.35, ""),
    "predict_twenty_classes": ("predict, 20 classes / plain forward", 3.0, ""),
    "predict_large": ("predict, 20 classes, 12 megapixels / plain forward", 4.0, ""),
    "bf16_over_fp32": ("bfloat16 / float32", 0.5, "no AMX"),
    "memory": ("peak memory / plain forward", 2.0, "not measurable here"),
}
"""Fields of the report: what each is called, the most it may be, and why it may be missing."""

_MANY = 20  # classes
_SEGMENTED = 4  # images of one round
_OBJECT_SHARE = 0.25  # of a support's patches; VOC objects of 2048 pixels and more cover about that

_RESET = Path("/proc/self/clear_refs")  # of the kernel's high-water mark of resident memory


@dataclass(frozen=True)
class Workload:
    """Sizes of the model and the image; by default ViT-B/16 at 480 x 480."""

    image_size: int = 480
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    embed_dim: int = 512
    large: tuple[int, int] = (4000, 3000)
    """(width, height) of the photograph that `predict_large` is measured on."""


@dataclass(frozen=True)
class SpeedReport:
    """Ratios to transformers' forward pass of the same image, and what they come from.

    Attributes:
        one_class: Priors of one query and one class (VTP, VVP of both blocks, PIR) with cached
            texts and supports, the query's encoding included.
        extra_class: What each further class adds, mean over the second to the twentieth.
        twenty_classes: Priors of twenty classes.
        predict_one_class: `FewShotSegmenter.predict` end to end, an image in memory to its mask, of
            one class with one support.
        predict_twenty_classes: The same of twenty classes.
        predict_large: The same of twenty classes in a photograph of 12 megapixels.
        segment_per_second: Images of the model's input size a second, from JPEG files to masks of
            one class in PNG files.
        bf16_over_fp32: Time of one class in bfloat16 over float32; None where the processor has no
            AMX, without which bfloat16 is emulated.
        memory: Peak memory above the loaded model, one class over plain; None where the system
            does not tell.
        plain_seconds: Median of the plain forward pass.
        stages: Median seconds of each stage of one class.
        stages_twenty: Median seconds of each stage of twenty classes.
        memory_mib: Peak above the loaded model of "plain" and "priors", and of "predict_large"
            above the fitted segmenter, in MiB; empty if unknown.
        threads: Threads of torch.
        rounds: Rounds whose medians these are.
        workload: Sizes of model and image.
    """

    one_class: float
    extra_class: float
    twenty_classes: float
    predict_one_class: float
    predict_twenty_classes: float
    predict_large: float
    segment_per_second: float
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
        table = []
        for field, (name, most, missing) in RATIOS.items():
            value = getattr(self, field)
            table.append((name, missing if value is None else f"{value:.3f}", f"<= {most:.2f}"))
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
        table = []
        for stage in self.stages:
            one, twenty = self.stages[stage], self.stages_twenty[stage]
            plain = self.plain_seconds
            table.append((stage, f"{one / plain:.3f}", f"{twenty / plain:.3f}"))
        return table


class CachedClasses(NamedTuple):
    """What is kept of C classes with one support each.

    Attributes:
        foreground: Text vectors, (C, E).
        background: Text vectors, (C, E).
        last: Support tokens after the last block, (C, 1, N, D).
        previous: Support tokens after the second-to-last block, (C, 1, N, D).
        mask: The object's patches, bool (C, 1, N).
    """

    foreground: Tensor
    background: Tensor
    last: Tensor
    previous: Tensor
    mask: Tensor


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
    plain, one, twenty = totals["plain"], totals["one"], totals["twenty"]
    memory = peak_memory(workload, threads) if measure_memory else {}
    return SpeedReport(
        one_class=one / plain,
        extra_class=(twenty - one) / (_MANY - 1) / plain,
        twenty_classes=twenty / plain,
        predict_one_class=totals["predict_one"] / plain,
        predict_twenty_classes=totals["predict_twenty"] / plain,
        predict_large=totals["predict_large"] / plain,
        segment_per_second=_SEGMENTED / totals["segment"],
        bf16_over_fp32=totals["bfloat16"] / one if "bfloat16" in totals else None,
        memory=memory["priors"] / memory["plain"] if memory else None,
        plain_seconds=plain,
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
    """Each round's seconds of the stages of each pass; without AMX there is none in bfloat16."""
    pixels, encoder = random_query(workload), random_encoder(workload)
    one, twenty = (random_classes(workload, count, encoder.dtype) for count in (1, _MANY))
    half = random_encoder(workload, "bfloat16") if has_amx() else None
    half_one = random_classes(workload, 1, torch.bfloat16)
    segmenters = [random_segmenter(encoder, workload, count) for count in (1, _MANY)]
    image = random_image(workload, 0)
    predictions: dict[str, Callable[[], object]] = {
        "predict_one": partial(segmenters[0].predict, image),
        "predict_twenty": partial(segmenters[1].predict, image),
        "predict_large": partial(segmenters[1].predict, image.resize(workload.large)),
        "segment": partial(segment_files, segmenters[0], workload),
    }
    times = defaultdict[str, list[dict[str, float]]](list)
    for number in range(rounds + 1):
        times["plain"].append(_seconds("plain", partial(plain_forward, encoder, pixels)))
        times["one"].append(query_priors(encoder, pixels, one))
        times["twenty"].append(query_priors(encoder, pixels, twenty))
        for name, predict in predictions.items():
            times[name].append(_seconds(name, predict))
        if half is not None:
            times["bfloat16"].append(query_priors(half, pixels, half_one))
        if number > 0 and on_round is not None:
            on_round(number, rounds)
    return {name: runs[1:] for name, runs in times.items()}  # the first round warms up


def _seconds(stage: str, run: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    run()
    return {stage: time.perf_counter() - start}


def _stage_medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {stage: median(run[stage] for run in runs) for stage in runs[0]}


def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (Intel AMX, on Linux)."""
    processors = Path("/proc/cpuinfo")
    return processors.exists() and "amx_bf16" in processors.read_text(encoding="utf-8")


class _RandomTexts(Encoder):
    """A CLIP whose text tower is a stub, since texts are embedded once."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Random unit vectors, (T, E)."""
        generator = torch.Generator().manual_seed(3)
        return F.normalize(torch.randn(len(texts), self.embed_dim, generator=generator), dim=-1)


def random_encoder(workload: Workload, dtype: str = "float32") -> Encoder:
    """A CLIP with random weights."""
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415 - slow to import

    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
        vision_config={
            "hidden_size": workload.width,
            "intermediate_size": 4 * workload.width,
            "num_hidden_layers": workload.depth,
            "num_attention_heads": workload.heads,
            "image_size": 14 * workload.patch_size,
            "patch_size": workload.patch_size,
        },
        projection_dim=workload.embed_dim,
        attn_implementation="sdpa",
    )
    settings = ModelSettings(image_size=workload.image_size)
    return _RandomTexts(CLIPModel(config), None, settings=settings, device="cpu", dtype=dtype)


def random_query(workload: Workload) -> Tensor:
    """Pixels (1, 3, S, S)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, workload.image_size, workload.image_size, generator=generator)


def random_classes(workload: Workload, count: int, dtype: torch.dtype) -> CachedClasses:
    """Random texts and support tokens of some classes."""
    generator = torch.Generator().manual_seed(2)
    patches = (workload.image_size // workload.patch_size) ** 2

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return CachedClasses(
        foreground=F.normalize(normal(count, workload.embed_dim), dim=-1),
        background=F.normalize(normal(count, workload.embed_dim), dim=-1),
        last=normal(count, 1, patches, workload.width).to(dtype),
        previous=normal(count, 1, patches, workload.width).to(dtype),
        mask=torch.rand(count, 1, patches, generator=generator) < _OBJECT_SHARE,
    )


def random_image(workload: Workload, seed: int) -> Image.Image:
    """A square RGB image of soft colours, at the model's input size."""
    values = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((workload.image_size, workload.image_size))


def random_segmenter(encoder: Encoder, workload: Workload, classes: int) -> FewShotSegmenter:
    """A segmenter that has seen one image of each of some classes."""
    side = workload.image_size
    mask = np.zeros((side, side), dtype=bool)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True  # `_OBJECT_SHARE` of it
    supports = {f"class {n}": Support(random_image(workload, n), mask) for n in range(classes)}
    return FewShotSegmenter(encoder).fit(supports)


def segment_files(segmenter: FewShotSegmenter, workload: Workload) -> None:
    """Writes a few random images as JPEG, segments them and writes their masks."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, f"{number}.jpg") for number in range(_SEGMENTED)]
        for number, file in enumerate(files):
            random_image(workload, number).save(file)
        for result in segmenter.stream(files):
            result.save(Path(name, "masks"))


@torch.inference_mode()
def plain_forward(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Transformers' own pass over the image, with scaled-dot-product attention."""
    tokens: Tensor = encoder.model.vision_model(
        pixels.to(encoder.dtype), interpolate_pos_encoding=True
    ).last_hidden_state
    return tokens


def query_priors(encoder: Encoder, pixels: Tensor, classes: CachedClasses) -> dict[str, float]:
    """Encodes a query and computes all its priors: VTP, VVP of both blocks, refined VTP.

    Returns:
        Seconds of each stage.
    """
    marks = [time.perf_counter()]
    encoding = encoder.encode(pixels)
    marks.append(time.perf_counter())
    text_maps = visual_text_prior(
        encoding.last_block,
        classes.foreground,
        classes.background,
        logit_scale=encoder.logit_scale,
        grid=encoding.grid,
    )
    marks.append(time.perf_counter())
    visual_visual_prior(encoding.last, classes.last, classes.mask)
    visual_visual_prior(encoding.previous, classes.previous, classes.mask)
    marks.append(time.perf_counter())
    refine_prior(text_maps, encoding.attention)
    marks.append(time.perf_counter())
    stages = ("encoding", "text prior", "visual prior", "refinement")
    return dict(zip(stages, (end - start for start, end in pairwise(marks)), strict=True))


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
    for task in tasks if _RESET.exists() else ():
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
        _RESET.write_text("5")  # see proc(5)
        before = _status("VmRSS")
        run()
    return _status("VmHWM") - before


def _passes(task: str, workload: Workload) -> Iterator[Callable[[], object]]:
    """The pass over a small image and the one that is measured."""
    encoder = random_encoder(workload)
    if task == "predict_large":
        segmenter = random_segmenter(encoder, workload, _MANY)
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
