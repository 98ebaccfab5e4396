"""How good each map is on the built-in world: held-out 1-shot and 5-shot episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan

import numpy as np

from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.datasets.scenes.scene_episodes import load_scenes, scene_keys
from piclip.errors import UsageError
from piclip.evaluation.evaluate import Counter, Task
from piclip.evaluation.metrics import THRESHOLDS, FewShotIoU, confidence_interval
from piclip.evaluation.predictor import FINAL, FUSED, Predictor
from piclip.io.outputs import Progress

MAPS = {
    "VTP": "vtp",
    "VTP+PIR": "vtp+pir",
    "VVP": "vvp",
    "VVP+PIR": "vvp+pir",
    "fused": FUSED,
    "final": FINAL,
}
"""The rows of the table: the priors, their fusion on the patch grid, the finished mask."""

TASK = Task(load_scenes, CLASS_NAMES, tuple(MAPS.values()))
CALIBRATION_EPISODES = 200


@dataclass(frozen=True)
class SceneRow:
    """One figure.

    Attributes:
        map: One of ``MAPS``.
        shot: Number of supports.
        miou: Class-accumulated mIoU in percent, mean over the seeds.
        ci95: Half-width of its 95 % interval over the seeds, in percent (NaN for one seed).
        threshold: The one threshold that was used, chosen on other episodes.
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
    model: str
    threshold_episodes: int

    def to_json(self) -> dict[str, object]:
        """Plain data; an interval that one seed cannot give is None."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["ci95"] = None if isnan(row["ci95"]) else row["ci95"]
        return {**vars(self), "rows": rows}


def run_scene_benchmark(
    predictor: Predictor,
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
        predictor: The segmenter, without training.
        episodes: Test episodes of each seed.
        seeds: How many seeds, 0 to ``seeds - 1``.
        shots: Numbers of supports.
        calibration_episodes: Episodes for the thresholds.
        workers: Processes that share the work; a model in memory is measured in this one alone.
        progress: Called with (episodes done, episodes in all).

    Returns:
        The rows in the order of ``shots`` and ``MAPS``.

    Raises:
        UsageError: A number is below 1, or a trained decoder segments.
    """
    if min(episodes, seeds, calibration_episodes, *shots) < 1:
        raise UsageError("Episodes, seeds and shots must be 1 or more.")
    encoder = predictor.segmenter.encoder
    own = int(np.abs(np.subtract(THRESHOLDS, encoder.settings.threshold)).argmin())
    finished, total = 0, len(shots) * (calibration_episodes + seeds * episodes)

    def told(count: int) -> None:
        nonlocal finished
        finished += count
        if progress is not None:
            progress(finished, total)

    rows = []
    with Counter(predictor, TASK, workers) as counter:

        def count(seed: int, shot: int, number: int, calibration: bool) -> list[FewShotIoU]:
            numbers = range(number)
            keys = [scene_keys(seed, i, shot, calibration=calibration) for i in numbers]
            return counter.count(keys, told)

        for shot in shots:
            chosen = count(0, shot, calibration_episodes, calibration=True)
            tests = [count(seed, shot, episodes, calibration=False) for seed in range(seeds)]
            for name, calibrated, *meters in zip(MAPS, chosen, *tests, strict=True):
                best = THRESHOLDS.index(calibrated.best_threshold()) if MAPS[name] != FINAL else own
                mean, half = confidence_interval([100 * meter.miou(best) for meter in meters])
                rows.append(SceneRow(name, shot, mean, half, THRESHOLDS[best]))
    model = encoder.source or "in memory"
    return SceneReport(tuple(rows), episodes, seeds, model, calibration_episodes)
