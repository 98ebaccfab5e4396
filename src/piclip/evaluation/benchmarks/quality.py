"""How good every map and the final mask are on episodes: the engine of scenes and photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode
from piclip.errors import UsageError
from piclip.evaluation.evaluate import Counter
from piclip.evaluation.metrics import THRESHOLDS, FewShotIoU
from piclip.evaluation.predictor import CONTRAST, FINAL, FUSED, Predictor, query_map, truth_of
from piclip.io.outputs import Progress, summed
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.naming import area_under_curve
from piclip.training_free.scorer import TrainingFreeScorer

PUBLISHED = {"VTP": "vtp", "VTP+PIR": "vtp+pir", "VVP": "vvp", "VVP+PIR": "vvp+pir"}
OWN = {"contrast": CONTRAST, "fused": FUSED, "final": FINAL}
MAPS = PUBLISHED | OWN
"""The rows of the table: PI-CLIP's priors, what the supports say alone, that and the name on the
patch grid, and the finished mask."""

NAMED, NAMELESS, WRONG, ABSENT = MODES = ("named", "nameless", "wrong-support", "absent")
"""As people ask; under a name that no model knows; with an object of another class under the right
name; and beside each query an image that does not hold the class."""

CALIBRATION = "calibration"  # as "named", in the episodes that choose the thresholds
_ANY_MASK = 0.001  # share of an image from which on it counts as masked
_DRAWS = 500


@dataclass(frozen=True)
class Question:
    """One episode by the keys of its images.

    Attributes:
        asked: Index of the class to segment.
        shown: Index of the class that the supports show.
        name: What it is called.
        query: An image that holds the class.
        supports: K images.
        absent: An image that does not hold the class, in the mode "absent".
    """

    asked: int
    shown: int
    name: str
    query: str
    supports: tuple[str, ...]
    absent: str | None = None


class Questions(Protocol):
    """Where episodes come from."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes by index."""
        ...

    def ask(self, mode: str, shots: int) -> list[Question]:
        """The episodes of one of `MODES` or of `CALIBRATION`."""
        ...

    def load(self, key: str, holds: int | None) -> Sample:
        """The image of a key that was drawn for a class, or for none."""
        ...


def wording(number: int, mode: str, names: Sequence[str]) -> tuple[int, int, str]:
    """The class that an episode asks for, the one that its supports show, and what it is called."""
    asked = number % len(names)
    shown = (asked + (7 % len(names) or 1)) % len(names) if mode == WRONG else asked
    return asked, shown, unknown_name(number) if mode == NAMELESS else names[asked]


def unknown_name(number: int) -> str:
    """A name that no model knows."""
    return f"thing{number % 3}"


@dataclass(frozen=True, eq=False)
class Answer:
    """What was counted in one episode.

    Attributes:
        asked: Index of the class.
        counts: int64 (maps, 2, T): intersection and union of the class at every threshold.
        masked: Shares of the images that were masked: of the query, and of the absent image.
        presence: Of the same; empty where the segmenter does not tell.
    """

    asked: int
    counts: NDArray[np.int64]
    masked: tuple[float, ...]
    presence: tuple[float, ...]


@dataclass(frozen=True)
class MapTask:
    """What is counted in episodes.

    Attributes:
        load: See `Questions.load`.
        maps: Maps of the query; of `FINAL` the mask as predict gives it is counted.
    """

    load: Callable[[str, int | None], Sample]
    maps: tuple[str, ...]

    def count(self, predictor: Predictor, questions: Sequence[Question]) -> list[Answer]:
        """Answers episodes, in order."""
        return [self._answer(predictor, question) for question in questions]

    def _answer(self, predictor: Predictor, question: Question) -> Answer:
        supports = tuple(self._narrowed(key, question.shown) for key in question.supports)
        query = self._narrowed(question.query, question.asked)
        unlabelled = replace(query, class_map=np.zeros_like(query.class_map))
        episode = Episode(question.name, 0, supports, unlabelled)
        results = [predictor.segment(episode)]
        if question.absent is not None:
            other = self.load(question.absent, None)
            results.append(predictor.segment(replace(episode, query=other)))
        meters = [FewShotIoU((question.name,), THRESHOLDS) for _ in self.maps]
        for meter, name in zip(meters, self.maps, strict=True):
            found = results[0].mask if name == FINAL else query_map(results[0], name)
            meter.add(question.name, found, query.class_map)
        return Answer(
            question.asked,
            np.stack([(meter.intersection[0, 1], meter.union[0, 1]) for meter in meters]),
            tuple(float(result.mask.mean()) for result in results),
            tuple(float(r.presence[0]) for r in results if r.presence is not None),
        )

    def _narrowed(self, key: str, class_index: int) -> Sample:
        """An image in which one class is 1 and all else 0, but for what is to be ignored."""
        sample = self.load(key, class_index)
        labels = truth_of(sample, class_index)
        return Sample(f"{key} {class_index}", sample.image, labels)


def miou(answers: Sequence[Answer], row: int = -1) -> NDArray[np.float64]:
    """Class-accumulated mIoU of one map in percent, at every threshold (T,)."""
    return _miou(*_stacked(answers, row))


def interval(answers: Sequence[Answer], row: int = -1, at: int = 0) -> tuple[float, float]:
    """95 % of the mIoU when episodes are drawn again within their class, from and to in percent."""
    classes, counts = _stacked(answers, row)
    counts, rng = counts[..., at], np.random.default_rng(0)
    members = [np.flatnonzero(classes == one) for one in np.unique(classes)]
    drawn = []
    for _ in range(_DRAWS):
        again = np.concatenate([own[rng.integers(len(own), size=len(own))] for own in members])
        drawn.append(_miou(classes[again], counts[again]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _stacked(answers: Sequence[Answer], row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    classes = np.array([answer.asked for answer in answers])
    return classes, np.stack([answer.counts[row] for answer in answers])


def _miou(classes: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.zeros((classes.max() + 1, *counts.shape[1:]), dtype=np.int64)
    np.add.at(sums, classes, counts)
    hit, union = sums[np.unique(classes)].swapaxes(0, 1)
    return np.asarray(100 * (hit / np.maximum(union, 1)).mean(axis=0))


@dataclass(frozen=True)
class MapRow:
    """One figure of the mode "named".

    Attributes:
        map: One of `MAPS`.
        shot: Number of supports.
        miou: Class-accumulated mIoU in percent.
        ci95: Half-width of its 95 % interval in percent, episodes drawn again within their class.
        threshold: Where the map is cut, chosen on other episodes; of "final" the segmenter's own.
    """

    map: str
    shot: int
    miou: float
    ci95: float
    threshold: float


@dataclass(frozen=True)
class ModeRow:
    """The final mask in one mode.

    Attributes:
        mode: One of `MODES`.
        shot: Number of supports.
        miou: Of the queries, as in `MapRow`.
        ci95: As in `MapRow`.
        classes: IoU of each class in percent, by name.
        absent_masked: Share of the images without the class that are masked all the same; None
            in other modes than "absent", like the others.
        present_lost: Share of the images with the class that get no mask.
        presence_auc: Probability that presence is higher in an image with the class than in one
            without; None where the segmenter does not tell.
    """

    mode: str
    shot: int
    miou: float
    ci95: float
    classes: dict[str, float]
    absent_masked: float | None = None
    present_lost: float | None = None
    presence_auc: float | None = None


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        rows: In the order of the shots and of `MAPS`.
        modes: In the order of the shots and of `MODES`.
        model: What the segmenter was loaded from.
        protocol: What was asked.
    """

    rows: tuple[MapRow, ...]
    modes: tuple[ModeRow, ...]
    model: str
    protocol: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        content = asdict(self)
        return {**content.pop("protocol"), **content}


def measure(
    predictor: Predictor,
    questions: Questions,
    *,
    shots: Sequence[int],
    protocol: dict[str, Any],
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Measures every map and mode.

    Args:
        predictor: A segmenter without training. PI-CLIP's priors are measured too where it reads
            names.
        questions: The episodes.
        shots: Numbers of supports.
        protocol: For the report.
        workers: Processes that share the work; a model in memory is measured in this one alone.
        progress: Called with (episodes done, episodes in all).

    Raises:
        UsageError: A trained decoder segments.
    """
    scorer = predictor.segmenter.scorer
    if not isinstance(scorer, TrainingFreeScorer):
        raise UsageError(
            "The maps are those of a segmenter without training only; give a CLIP or another ViT."
        )
    jobs: list[tuple[Predictor, dict[str, str], tuple[str, ...]]] = [
        (predictor, OWN, (CALIBRATION, *MODES))
    ]
    if scorer.encoder is not None:
        jobs.insert(0, (_published(predictor), PUBLISHED, (CALIBRATION, NAMED)))
    asked = {(shot, mode): questions.ask(mode, shot) for shot in shots for mode in jobs[-1][2]}
    total = sum(len(asked[shot, mode]) for _, _, modes in jobs for shot in shots for mode in modes)
    told = summed(progress, total)
    found: dict[tuple[int, str, str], list[Answer]] = {}
    for one, maps, modes in jobs:
        task = MapTask(questions.load, tuple(maps.values()))
        with Counter(one, task.count, workers) as counter:
            for shot in shots:
                for mode in modes:
                    parts = counter.parts(asked[shot, mode], told)
                    answers = [answer for part in parts for answer in part]
                    found |= {(shot, mode, name): answers for name in maps}
    rows, threshold = [], predictor.segmenter.threshold
    for shot in shots:
        for _, maps, _ in jobs:
            for row, name in enumerate(maps):
                at = int(miou(found[shot, CALIBRATION, name], row).argmax())
                answers = found[shot, NAMED, name]
                chosen = threshold if name == FINAL else THRESHOLDS[at]
                figures = float(miou(answers, row)[at]), _half(interval(answers, row, at))
                rows.append(MapRow(name, shot, *figures, chosen))
    kinds = [
        _mode(mode, shot, found[shot, mode, FINAL], questions.class_names)
        for shot in shots
        for mode in MODES
    ]
    model = " + ".join(part.source or "in memory" for part in scorer.models)
    return Report(tuple(rows), tuple(kinds), model, protocol)


def _mode(mode: str, shot: int, answers: Sequence[Answer], names: Sequence[str]) -> ModeRow:
    by_class = {
        names[asked]: round(float(miou([one for one in answers if one.asked == asked])[0]), 2)
        for asked in sorted({answer.asked for answer in answers})
    }
    row = ModeRow(mode, shot, float(miou(answers)[0]), _half(interval(answers)), by_class)
    if mode != ABSENT:
        return row
    kept, masked = np.mean([np.greater(answer.masked, _ANY_MASK) for answer in answers], axis=0)
    values = torch.tensor([answer.presence for answer in answers])  # (E, 2), or (E, 0)
    holds = torch.tensor([1.0, 0.0]).expand(len(answers), 2)
    area = float(area_under_curve(values.flatten(), holds.flatten())) if values.numel() else None
    return replace(
        row, absent_masked=float(masked), present_lost=float(1 - kept), presence_auc=area
    )


def _half(ends: tuple[float, float]) -> float:
    return (ends[1] - ends[0]) / 2


def _published(predictor: Predictor) -> Predictor:
    """PI-CLIP's priors of the same CLIP."""
    encoder = predictor.segmenter.encoder
    segmenter = FewShotSegmenter(TrainingFreeScorer(encoder, evidence="published"))
    source = predictor.source
    return Predictor(segmenter, source=None if source is None else partial(_reload, source))


def _reload(source: Callable[[], FewShotSegmenter]) -> FewShotSegmenter:
    return FewShotSegmenter(TrainingFreeScorer(source().encoder, evidence="published"))
