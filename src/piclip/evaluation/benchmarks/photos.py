"""Quality on photographs: episodes of labelled images of PASCAL or COCO."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from piclip.datasets.dataset import Sample
from piclip.datasets.file_dataset import read_lines
from piclip.datasets.photographs import open_photographs
from piclip.errors import DatasetError, UsageError
from piclip.evaluation.benchmarks.quality import (
    ABSENT,
    CALIBRATION,
    WRONG,
    Question,
    Report,
    measure,
    wording,
)
from piclip.evaluation.predictor import Predictor
from piclip.io.outputs import Progress

_CALIBRATION_SEED = 1_000_000  # beyond the seed of the test
_SPARE_IMAGES = 3  # that a class has besides the supports


class PhotoQuestions:
    """Episodes of photographs.

    Episode k asks for class k mod C. Query and supports are drawn without replacement among the
    images with enough pixels of the class; wrong supports likewise; and an absent image among all
    that have not a single pixel of it.

    The folder is one of `open_photographs`; ``only`` are numbers of the images to take, as in
    "2008_000019", None for all; of the classes that are left out no image is taken. There are so
    many episodes in each mode, and those that choose the thresholds are drawn from another seed.

    Raises:
        UsageError: The folder, a number or a class is unknown.
    """

    def __init__(
        self,
        folder: Path,
        only: Collection[str] | None,
        *,
        episodes: int,
        seed: int,
        calibration_episodes: int,
        leave_out: Collection[str] = (),
    ) -> None:
        self.dataset, splits = open_photographs(folder)
        self.episodes, self.seed, self.calibration_episodes = episodes, seed, calibration_episodes
        keys = [key for split in splits for key in self.dataset.keys(split)]
        rows = {Path(key).name: row for row, key in enumerate(keys)}
        if unknown := set(only or ()) - rows.keys():
            raise UsageError(f"{folder} has no image {min(unknown)}; take it off the list.")
        names = self.dataset.class_names
        if unknown := set(leave_out) - set(names):
            raise UsageError(f"{folder} has no class {min(unknown)!r} to leave out.")
        counts = np.concatenate([self.dataset.presence(split) for split in splits])
        left_out = [names.index(name) for name in leave_out]
        hidden = np.asarray(counts[:, left_out].sum(axis=1) > 0)
        wanted = (row for number, row in rows.items() if only is None or number in only)
        taken = [row for row in wanted if not hidden[row]]
        self.keys, counts = [keys[row] for row in taken], counts[taken]
        self._absent, self._enough = counts == 0, counts >= self.dataset.minimum_pixels

    @property
    def class_names(self) -> Sequence[str]:
        """Those of the dataset."""
        return self.dataset.class_names

    def ask(self, mode: str, shots: int) -> list[Question]:
        """See `Questions.ask`; DatasetError where there are too few images."""
        needed = shots + _SPARE_IMAGES
        classes = [int(c) for c in np.flatnonzero(self._enough.sum(axis=0) >= needed)]
        if len(classes) < 2 or not self._absent[:, classes].any(axis=0).all():
            raise DatasetError(
                f"Two classes with {needed} images each are needed for {shots}-shot episodes, and "
                f"images without them; give more images or ask for fewer shots."
            )
        names = [self.dataset.class_names[index] for index in classes]
        images = [[self.keys[row] for row in np.flatnonzero(self._enough[:, c])] for c in classes]
        calibration = mode == CALIBRATION
        rng = random.Random(self.seed + _CALIBRATION_SEED * calibration)
        questions = []
        for number in range(self.calibration_episodes if calibration else self.episodes):
            asked, shown, name = wording(number, mode, names)
            query, *supports = rng.sample(images[asked], shots + 1)
            if mode == WRONG:
                supports = rng.sample(images[shown], shots)
            asked, shown = classes[asked], classes[shown]
            absent: str | None = None
            while mode == ABSENT and absent is None:
                row = rng.choice(range(len(self.keys)))
                absent = self.keys[row] if self._absent[row, asked] else None
            questions.append(Question(asked, shown, name, query, tuple(supports), absent))
        return questions

    def load(self, key: str, _: int | None) -> Sample:
        """See `Questions.load`."""
        return self.dataset.sample(key)


def run_photo_benchmark(
    predictor: Predictor,
    folder: Path,
    *,
    only: Path | None = None,
    episodes: int = 200,
    seed: int = 0,
    shots: Sequence[int] = (1, 5),
    calibration_episodes: int = 100,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Measures every map and mode on photographs.

    Each map has one threshold. It is chosen on ``calibration_episodes`` other episodes of the same
    images; the final mask keeps the segmenter's own threshold. ``only`` is a text file with the
    numbers of the images to take, one in each line. Other arguments are those of `PhotoQuestions`
    and `measure`.

    Raises:
        UsageError: A number is below 1, the folder is unknown, or a trained decoder segments.
        DatasetError: The folder is damaged, or has too few images.
    """
    if min(episodes, calibration_episodes, workers, *shots) < 1:
        raise UsageError("Episodes, shots and workers must be 1 or more.")
    questions = PhotoQuestions(
        folder,
        None if only is None else frozenset(read_lines(only)),
        episodes=episodes,
        seed=seed,
        calibration_episodes=calibration_episodes,
    )
    protocol = {
        "data": questions.dataset.name,
        "images": len(questions.keys),
        "episodes": episodes,
        "seed": seed,
        "threshold_episodes": calibration_episodes,
    }
    return measure(
        predictor,
        questions,
        shots=shots,
        protocol=protocol,
        workers=workers,
        progress=progress,
    )
