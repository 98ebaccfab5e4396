"""Quality on the built-in world: held-out episodes over all 20 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from piclip.datasets.dataset import Sample
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.datasets.scenes.scene_episodes import absent_key, load_scene, scene_keys
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.quality import (
    ABSENT,
    CALIBRATION,
    NAMED,
    Question,
    Report,
    measure,
    wording,
)
from piclip.evaluation.predictor import Predictor
from piclip.io.outputs import Progress


@dataclass(frozen=True)
class SceneQuestions:
    """Episodes of `scene_keys`; those of the seed 0 where a mode is not "named"."""

    episodes: int
    seeds: int
    calibration_episodes: int

    @property
    def class_names(self) -> Sequence[str]:
        """Those of the built-in world."""
        return CLASS_NAMES

    def ask(self, mode: str, shots: int) -> list[Question]:
        """See `Questions.ask`; thresholds are chosen on scenes that nothing else uses."""
        calibration = mode == CALIBRATION
        seeds = range(self.seeds if mode == NAMED else 1)
        numbers = range(self.calibration_episodes if calibration else self.episodes)
        questions = []
        for seed, number in ((seed, number) for seed in seeds for number in numbers):
            keys = scene_keys(seed, number, shots, calibration=calibration)
            asked, shown, name = wording(number, mode, CLASS_NAMES)
            absent = absent_key(seed, number) if mode == ABSENT else None
            questions.append(Question(asked, shown, name, keys.query, keys.supports, absent))
        return questions

    def load(self, key: str, holds: int | None) -> Sample:
        """See `Questions.load`."""
        return load_scene(key, None if holds is None else CLASS_NAMES[holds])


def run_scene_benchmark(
    predictor: Predictor,
    *,
    episodes: int = 1000,
    seeds: int = 5,
    shots: Sequence[int] = (1, 5),
    calibration_episodes: int = 200,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Measures every map and mode on held-out episodes of the built-in world.

    Each map has one global threshold. It is chosen on ``calibration_episodes`` episodes of scenes
    that neither training nor the test uses; the final mask keeps the segmenter's own threshold.
    Each of the seeds 0 to ``seeds - 1`` has so many test episodes; modes but "named" are asked of
    the first alone. Other arguments are those of `measure`.

    Raises:
        UsageError: A number is below 1, or a trained decoder segments.
    """
    if min(episodes, seeds, calibration_episodes, workers, *shots) < 1:
        raise UsageError("Episodes, seeds, shots and workers must be 1 or more.")
    protocol = {"episodes": episodes, "seeds": seeds, "threshold_episodes": calibration_episodes}
    return measure(
        predictor,
        SceneQuestions(episodes, seeds, calibration_episodes),
        shots=shots,
        protocol=protocol,
        workers=workers,
        progress=progress,
    )
