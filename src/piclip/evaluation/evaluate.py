"""Evaluation on few-shot episodes: the same figures for any order and number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, get_args

import torch

from piclip.datasets.episode_files import EpisodeFile, episodes_hash
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.protocols import OURS, Protocol, protocol_named
from piclip.errors import ModelError, PiclipError, UsageError
from piclip.evaluation.metrics import THRESHOLDS, FewShotIoU
from piclip.evaluation.predictor import (
    FINAL,
    Predictor,
    as_measured,
    blind,
    contrast_of,
    query_map,
    truth_of,
)
from piclip.evaluation.records import (
    Evaluation,
    Method,
    SeedResult,
    library_versions,
    read_result,
    write_result,
)
from piclip.io.outputs import Progress, check_file, summed
from piclip.io.processes import WORKER_ENDED, worker_pool

if TYPE_CHECKING:
    from typing import Self

Candidates = Literal["target", "oracle"]
QuestionT = TypeVar("QuestionT")
CountedT = TypeVar("CountedT")

_CHUNK = 20  # episodes that a worker takes at a time


@dataclass(frozen=True)
class EpisodeProtocol:
    """Which questions are asked.

    Attributes:
        shots: Number K of supports.
        seeds: Each draws its own episodes.
        episodes: Episodes of each seed.
        candidates: "target": the class's own prompts alone. "oracle": the prompts of all classes
            in the truth of the query; only to compare with published numbers.
        file: Ask these episodes instead of drawing; they make one seed.
        rules: How episodes are drawn and answers are measured.

    Raises:
        UsageError: Something is out of range.
    """

    shots: int = 1
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 1000
    candidates: Candidates = "target"
    file: EpisodeFile | None = None
    rules: Protocol = OURS

    def __post_init__(self) -> None:
        if self.candidates not in get_args(Candidates):
            raise UsageError(
                f"The candidates are one of {', '.join(get_args(Candidates))}, not "
                f"{self.candidates!r}."
            )
        if min(self.shots, self.episodes, len(self.seeds)) < 1:
            raise UsageError("An evaluation needs one shot, one episode and one seed at least.")
        if len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"The seeds {self.seeds} are not all different.")

    @classmethod
    def of_file(cls, file: EpisodeFile, candidates: Candidates = "target") -> EpisodeProtocol:
        """Asks the episodes of a file, and measures as the protocol that they were drawn by."""
        rules = protocol_named(file.protocol)
        return cls(file.shots, (file.seed,), len(file.episodes), candidates, file, rules)

    def questions(self, view: FewShotView, seed: int) -> tuple[EpisodeKeys, ...]:
        """The episodes of a seed, in order."""
        if self.file is not None:
            return self.file.episodes
        return self.rules.episodes(view, seed, self.episodes, self.shots)


@dataclass(frozen=True)
class Task:
    """Counts the hits in episodes of a view's classes, with scores cut at some thresholds.

    Candidates and rules are those of an `EpisodeProtocol`.
    """

    view: FewShotView
    thresholds: tuple[float, ...] = THRESHOLDS
    candidates: Candidates = "target"
    rules: Protocol = OURS

    def count(self, predictor: Predictor, keys: Sequence[EpisodeKeys]) -> FewShotIoU:
        """Answers episodes and counts their pixels; the order of episodes does not matter."""
        dataset, shown = self.view.dataset, predictor.prior or FINAL
        measure = self.rules.measure(dataset.name)
        names = [dataset.class_names[index] for index in self.view.classes]
        meter = FewShotIoU(names, self.thresholds)
        for key in keys:
            episode = self.view.load(key)
            truth = truth_of(episode.query, episode.class_index)
            contrast = contrast_of(episode, dataset, self.candidates)
            result = predictor.segment(blind(episode), contrast)
            meter.add(episode.name, *as_measured(query_map(result, shown), truth, measure))
        return meter


class Counter(Generic[QuestionT, CountedT]):
    """Counts episodes here, or in processes that share them; a context manager.

    Args:
        predictor: What answers; one that cannot be loaded again works in this process alone.
        task: Counts something in episodes that the predictor answers, such as `Task.count`.
        workers: Number of processes.

    Raises:
        UsageError: Less than one worker.
    """

    def __init__(
        self,
        predictor: Predictor,
        task: Callable[[Predictor, Sequence[QuestionT]], CountedT],
        workers: int = 1,
    ) -> None:
        if workers < 1:
            raise UsageError(f"The workers must be 1 or more, not {workers}.")
        self.predictor, self.task = predictor, task
        self._pool: ProcessPoolExecutor | None = None
        reload = predictor.reload
        if workers > 1 and reload is not None:
            threads = max(1, torch.get_num_threads() // workers)
            start = (_start_counting, reload, task, predictor.segmenter.scorer.fingerprint())
            self._pool = worker_pool(workers, threads, *start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def parts(
        self, keys: Sequence[QuestionT], told: Callable[[int], None] = lambda _: None
    ) -> Iterator[CountedT]:
        """What the task counts in each chunk of episodes, in order; ``told`` how many they are.

        A process that ends unexpectedly is a PiclipError.
        """
        chunks = [keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK)]
        try:
            if self._pool is None:
                parts: Iterator[CountedT] = (self.task(self.predictor, chunk) for chunk in chunks)
            else:
                parts = self._pool.map(_count_in_worker, chunks)
            for chunk, part in zip(chunks, parts, strict=True):
                told(len(chunk))
                yield part
        except BrokenProcessPool as error:
            raise PiclipError(f"{WORKER_ENDED}.") from error

    def count(
        self: Counter[EpisodeKeys, FewShotIoU],
        keys: Sequence[EpisodeKeys],
        told: Callable[[int], None] = lambda _: None,
    ) -> FewShotIoU:
        """The counts of a `Task` over all episodes; arguments as `parts`."""
        # Neighbours share supports where any do, so that what was made of these is used again.
        ordered = sorted(keys, key=lambda e: (e.class_index, e.supports, e.query))
        whole, *others = self.parts(ordered, told)
        for part in others:
            whole.merge(part)
        return whole


def evaluate(
    predictor: Predictor,
    view: FewShotView,
    protocol: EpisodeProtocol,
    *,
    workers: int = 1,
    output: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs a method on episodes and counts its hits as the protocol measures them.

    Args:
        predictor: The method.
        view: The classes that are tested, usually the novel ones of the val split.
        protocol: Which episodes.
        workers: Processes that share the episodes.
        output: A file for the record, written after every seed. Seeds that it already holds are
            not run again.
        command: The command line, for the record.
        progress: Called with (episodes done, episodes in all), those of an earlier run included.

    Raises:
        UsageError: The file holds another evaluation, or an argument is out of range.
        DatasetError: A class has too few images.
        OutputError: The file cannot be written; told before the first episode where it can be.
    """
    if protocol.file is not None:
        protocol.file.check_view(view)
    record = _described(predictor.method, view, protocol, command)
    if output is not None and Path(output).is_file():
        record = _resumed(record, output, view, protocol)
    done = {result.seed for result in record.per_seed}
    finished, total = (protocol.episodes * len(seeds) for seeds in (done, record.seeds))
    told = summed(progress, total, finished)
    told(0)
    if record.complete:
        return record
    if output is not None:
        check_file(output)
    task = Task(view, (predictor.least_score,), protocol.candidates, protocol.rules)
    with Counter(predictor, task.count, workers) as counter:
        for seed in (seed for seed in record.seeds if seed not in done):
            keys = protocol.questions(view, seed)
            meter = counter.count(keys, told)
            zero = protocol.rules.unseen_is_zero
            record = record.with_seed(SeedResult.of(seed, _hash(view, keys), meter, zero))
            if output is not None:
                write_result(record, output)
    return record


def choose_threshold(
    predictor: Predictor, view: FewShotView, *, shots: int, episodes: int = 100, seed: int = 0
) -> float:
    """The threshold of a predictor's scores with the best mIoU on other episodes than the test's.

    The view is of base classes of the training split, so that no novel class is looked at.
    """
    keys = [view.episode(seed, number, shots) for number in range(episodes)]
    return Counter(predictor, Task(view).count).count(keys).best_threshold()


_Counts: TypeAlias = Callable[[Predictor, Sequence[Any]], Any]
_counting: dict[str, tuple[Predictor, _Counts, bool]] = {}


def _start_counting(reload: Callable[[], Predictor], task: _Counts, fingerprint: str) -> None:
    predictor = reload()
    same = predictor.segmenter.scorer.fingerprint() == fingerprint
    _counting["here"] = (predictor, task, same)


def _count_in_worker(keys: Sequence[Any]) -> Any:  # noqa: ANN401
    predictor, task, same = _counting["here"]
    if not same:
        raise ModelError("The weights on disk changed while they were evaluated; start again.")
    return task(predictor, keys)


def _described(
    method: Method, view: FewShotView, protocol: EpisodeProtocol, command: str | None
) -> Evaluation:
    settings = {"split": view.split, "classes": view.kind, "minimum_pixels": view.minimum_pixels}
    return Evaluation(
        **{**vars(method), "settings": {**settings, **method.settings}},
        dataset=view.dataset.name,
        fold=view.fold,
        folds=view.dataset.folds(),
        shots=protocol.shots,
        candidates=protocol.candidates,
        episodes=protocol.episodes,
        seeds=protocol.seeds,
        versions=library_versions(),
        command=command,
        protocol=protocol.rules.name,
    )


def _resumed(
    record: Evaluation, output: str | Path, view: FewShotView, protocol: EpisodeProtocol
) -> Evaluation:
    """The record with the seeds that its file already holds."""
    earlier = read_result(output)
    difference = record.difference(earlier)
    for result in earlier.per_seed:
        keys = protocol.questions(view, result.seed)
        if difference is None and result.episodes_hash != _hash(view, keys):
            difference = f"other episodes of seed {result.seed}"
    if difference is not None:
        raise UsageError(
            f"{output} holds another evaluation ({difference}); choose another output or delete it."
        )
    seeds = {*record.seeds, *(result.seed for result in earlier.per_seed)}
    return replace(record, seeds=tuple(sorted(seeds)), per_seed=earlier.per_seed)


def _hash(view: FewShotView, keys: Sequence[EpisodeKeys]) -> str:
    return episodes_hash(keys, view.dataset.class_names)
