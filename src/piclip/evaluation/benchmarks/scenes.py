"""How good each map is on the built-in world: held-out 1-shot and 5-shot episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from piclip.datasets.episodes import Episode, scene_episode
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.errors import UsageError
from piclip.evaluation.metrics import ClassIoU, confidence_interval
from piclip.evaluation.processes import end_with_parent
from piclip.io.outputs import Progress
from piclip.io.supports import Support
from piclip.results import priors_of
from piclip.segmenter import FewShotSegmenter

MAPS = ("VTP", "VTP+PIR", "VVP", "VVP+PIR", "fused", "final")
"""The rows of the table: the priors, their fusion on the patch grid, the finished mask."""

THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))
CALIBRATION_EPISODES = 200
CHUNK = 20

Meters = dict[str, ClassIoU]


@dataclass(frozen=True)
class SceneRow:
    """One figure.

    Attributes:
        map: one of ``MAPS``.
        shot: number of supports.
        miou: class-accumulated mIoU in percent, mean over the seeds.
        ci95: half-width of its 95 % interval over the seeds, in percent (NaN for one seed).
        threshold: the one threshold that was used, chosen on other episodes.
    """

    map: str
    shot: int
    miou: float
    ci95: float
    threshold: float


@dataclass(frozen=True)
class SceneReport:
    """The table of a benchmark run, and what it was run on."""

    rows: tuple[SceneRow, ...]
    episodes: int
    seeds: int
    threshold_episodes: int
    model: str

    def to_json(self) -> dict[str, object]:
        """Plain data; an interval that one seed cannot give is None."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["ci95"] = None if np.isnan(row["ci95"]) else row["ci95"]
        return {
            "rows": rows,
            "episodes": self.episodes,
            "seeds": self.seeds,
            "model": self.model,
            "threshold_episodes": self.threshold_episodes,
        }


def run_scene_benchmark(
    segmenter: FewShotSegmenter,
    *,
    episodes: int = 1000,
    seeds: int = 5,
    shots: Sequence[int] = (1, 5),
    calibration_episodes: int = CALIBRATION_EPISODES,
    workers: int = 1,
    progress: Progress | None = None,
) -> SceneReport:
    """Measures every map on held-out episodes over all 20 classes.

    Each map has one global threshold. It is chosen on ``calibration_episodes`` episodes of scenes
    that neither training nor the test uses; the final mask keeps the segmenter's own threshold.

    Args:
        segmenter: The segmenter; classes it has learned are not touched.
        episodes: Test episodes of each seed.
        seeds: How many seeds, 0 to ``seeds - 1``.
        shots: Numbers of supports.
        calibration_episodes: Episodes for the thresholds.
        workers: Processes that share the work; a model in memory is measured in this one alone.
        progress: Called with (episodes done, episodes in all).

    Returns:
        The rows in the order of ``shots`` and ``MAPS``.

    Raises:
        UsageError: A number is below 1.
    """
    if min(episodes, seeds, calibration_episodes, workers, *shots) < 1:
        raise UsageError("Episodes, seeds, shots and workers must be 1 or more.")
    tasks = [
        _Task(shot, seed, range(start, min(start + CHUNK, count)), calibration)
        for shot in shots
        for seed, count, calibration in (
            (0, calibration_episodes, True),
            *((seed, episodes, False) for seed in range(seeds)),
        )
        for start in range(0, count, CHUNK)
    ]
    meters: dict[tuple[int, int, bool], Meters] = {}
    done, total = 0, sum(len(task.indices) for task in tasks)
    for task, part in zip(tasks, _measured(segmenter, tasks, workers), strict=True):
        whole = meters.setdefault((task.shot, task.seed, task.calibration), part)
        if whole is not part:
            for name, meter in part.items():
                whole[name].merge(meter)
        done += len(task.indices)
        if progress is not None:
            progress(done, total)
    settings = segmenter.encoder.settings
    rows = []
    for shot in shots:
        calibrated = meters[shot, 0, True]
        chosen = {name: int(meter.miou().argmax()) for name, meter in calibrated.items()}
        chosen["final"] = int(np.abs(np.subtract(THRESHOLDS, settings.threshold)).argmin())
        tests = [meters[shot, seed, False] for seed in range(seeds)]
        for name in MAPS:
            best = chosen[name]
            mean, half = confidence_interval([100 * test[name].miou()[best] for test in tests])
            rows.append(SceneRow(name, shot, mean, half, THRESHOLDS[best]))
    model = segmenter.encoder.source or "in memory"
    return SceneReport(tuple(rows), episodes, seeds, calibration_episodes, model)


@dataclass(frozen=True)
class _Task:
    """Some episodes of one seed."""

    shot: int
    seed: int
    indices: range
    calibration: bool


def _measure(segmenter: FewShotSegmenter, task: _Task) -> Meters:
    meters = {name: ClassIoU(CLASS_NAMES, THRESHOLDS) for name in MAPS}
    for index in task.indices:
        episode = scene_episode(task.seed, index, task.shot, calibration=task.calibration)
        truth = episode.query.mask(episode.name)
        for name, score in episode_maps(segmenter, episode).items():
            meters[name].add(episode.name, score, truth)
    return meters


def _measured(
    segmenter: FewShotSegmenter, tasks: Sequence[_Task], workers: int
) -> Iterator[Meters]:
    """The tasks' meters, in order."""
    encoder = segmenter.encoder
    if workers == 1 or encoder.source is None:
        own = FewShotSegmenter(encoder)
        yield from (_measure(own, task) for task in tasks)
        return
    threads = max(1, torch.get_num_threads() // workers)
    dtype = str(encoder.dtype).removeprefix("torch.")
    settings = (encoder.source, str(encoder.device), dtype, threads)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start_worker, initargs=settings
    ) as pool:
        yield from pool.map(_measure_in_worker, tasks)


_worker: dict[str, FewShotSegmenter] = {}


def _start_worker(source: str, device: str, dtype: str, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    _worker["segmenter"] = FewShotSegmenter.from_pretrained(source, device=device, dtype=dtype)


def _measure_in_worker(task: _Task) -> Meters:
    return _measure(_worker["segmenter"], task)


def episode_maps(
    segmenter: FewShotSegmenter, episode: Episode
) -> dict[str, npt.NDArray[np.float32]]:
    """All maps of one episode's query at its own size, (H, W) in [0, 1]."""
    segmenter.reset()
    supports = [Support(scene.image, scene.mask(episode.name)) for scene in episode.supports]
    segmenter.fit(supports, name=episode.name)
    result = segmenter.predict([episode.query.image])[0]
    size = result.size
    priors = priors_of(result)
    coarse = {
        "VTP": priors.visual_text,
        "VTP+PIR": priors.visual_text_refined,
        "VVP": priors.visual_visual,
        "VVP+PIR": priors.visual_visual_refined,
        "fused": priors.fused,
    }
    maps = {name: _enlarge(grid, size) for name, grid in coarse.items()}
    return {**maps, "final": result.scores[0]}


def _enlarge(grid: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bilinear, as the decoders enlarge priors; (1, h, w) to (H, W)."""
    enlarged = F.interpolate(
        torch.from_numpy(grid)[None], size=size, mode="bilinear", align_corners=False
    )
    return np.asarray(enlarged[0, 0].numpy())
