"""Evaluation on few-shot episodes: the same figures for any order, batch and number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import torch

from piclip.datasets.episode_files import EpisodeFile, episodes_hash
from piclip.datasets.few_shot import Episode, EpisodeKeys, FewShotView
from piclip.errors import ModelError, UsageError
from piclip.evaluation.metrics import FewShotIoU
from piclip.evaluation.predictors import Method, Predictor, blind, truth_of
from piclip.evaluation.processes import end_with_parent
from piclip.evaluation.records import (
    Evaluation,
    SeedResult,
    library_versions,
    read_result,
    write_result,
)
from piclip.io.outputs import Progress

Candidates = Literal["target", "oracle"]

_CHUNK = 40  # episodes that a worker takes at a time


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

    Raises:
        UsageError: Something is out of range.
    """

    shots: int = 1
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 1000
    candidates: Candidates = "target"
    file: EpisodeFile | None = None

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
        """Asks the episodes of a file."""
        return cls(file.shots, (file.seed,), len(file.episodes), candidates, file)

    def questions(self, view: FewShotView, seed: int) -> tuple[EpisodeKeys, ...]:
        """The episodes of a seed, in order."""
        if self.file is not None:
            return self.file.episodes
        return tuple(view.episode(seed, index, self.shots) for index in range(self.episodes))


def evaluate(
    predictor: Predictor,
    view: FewShotView,
    protocol: EpisodeProtocol,
    *,
    batch_size: int = 8,
    workers: int = 1,
    output: str | Path | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Runs a method on a fold's episodes and counts its hits at the labels' own size.

    Args:
        predictor: The method.
        view: The classes that are tested, usually the novel ones of the val split.
        protocol: Which episodes.
        batch_size: Episodes that are answered together.
        workers: Processes that share the episodes.
        output: A file for the record, written after every seed. Seeds that it already holds are
            not run again.
        command: The command line, for the record.
        progress: Called with (episodes done, episodes in all), those of an earlier run included.

    Returns:
        The record.

    Raises:
        UsageError: The file holds another evaluation, or an argument is out of range.
        DatasetError: A class has too few images.
        OutputError: The file cannot be written.
    """
    if batch_size < 1 or workers < 1:
        raise UsageError("The batch size and the workers must be 1 or more.")
    _check_file(protocol, view)
    record = _described(predictor, view, protocol, command)
    if output is not None and Path(output).exists():
        record = _resumed(record, output, view, protocol)
    finished = len(record.per_seed) * protocol.episodes
    total = finished + len(_missing(record)) * protocol.episodes
    if progress is not None:
        progress(finished, total)
    if record.complete:
        return record
    job = _Job(view, protocol.candidates, batch_size)
    with _Counters(predictor, job, workers) as counters:
        for seed in _missing(record):
            keys = protocol.questions(view, seed)
            meter = _new_meter(view)
            for count, part in counters.count(keys):
                meter.merge(part)
                finished += count
                if progress is not None:
                    progress(finished, total)
            record = record.with_seed(SeedResult.of(seed, _hash(view, keys), meter))
            if output is not None:
                write_result(record, output)
    return record


def count_episodes(
    predictor: Predictor,
    view: FewShotView,
    keys: Sequence[EpisodeKeys],
    *,
    candidates: Candidates = "target",
    batch_size: int = 8,
) -> FewShotIoU:
    """Answers episodes and counts the pixels; the sums do not depend on order or batch size."""
    meter = _new_meter(view)
    for start in range(0, len(keys), batch_size):
        episodes = [view.load(key) for key in keys[start : start + batch_size]]
        others = [_others(episode, view, candidates) for episode in episodes]
        masks = predictor.predict([blind(episode) for episode in episodes], others)
        for episode, mask in zip(episodes, masks, strict=True):
            meter.add(episode.name, mask, truth_of(episode.query, episode.class_index))
    return meter


@dataclass(frozen=True)
class _Job:
    view: FewShotView
    candidates: Candidates
    batch_size: int

    def count(self, predictor: Predictor, keys: Sequence[EpisodeKeys]) -> FewShotIoU:
        return count_episodes(
            predictor, self.view, keys, candidates=self.candidates, batch_size=self.batch_size
        )


class _Counters:
    """Counts chunks of episodes here or in processes of their own."""

    def __init__(self, predictor: Predictor, job: _Job, workers: int) -> None:
        self.predictor, self.job = predictor, job
        self.pool: ProcessPoolExecutor | None = None
        reload = predictor.reload
        if workers > 1 and reload is not None:
            threads = max(1, torch.get_num_threads() // workers)
            self.pool = ProcessPoolExecutor(
                workers,
                get_context("spawn"),
                initializer=_start_worker,
                initargs=(reload, job, threads, predictor.method),
            )

    def __enter__(self) -> _Counters:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def count(self, keys: Sequence[EpisodeKeys]) -> Iterator[tuple[int, FewShotIoU]]:
        """Numbers of episodes and their counts, chunk by chunk."""
        # Neighbours share supports where any do, so that what was made of these is used again.
        ordered = sorted(keys, key=lambda e: (e.class_index, e.supports, e.query))
        chunks = [ordered[i : i + _CHUNK] for i in range(0, len(ordered), _CHUNK)]
        if self.pool is None:
            parts: Iterator[FewShotIoU] = (
                self.job.count(self.predictor, chunk) for chunk in chunks
            )
        else:
            parts = self.pool.map(_count_in_worker, chunks)
        yield from zip(map(len, chunks), parts, strict=True)


_worker: dict[str, tuple[Predictor, _Job, bool]] = {}


def _start_worker(reload: Callable[[], Predictor], job: _Job, threads: int, method: Method) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    predictor = reload()
    _worker["state"] = (predictor, job, predictor.method == method)


def _count_in_worker(keys: Sequence[EpisodeKeys]) -> FewShotIoU:
    predictor, job, same = _worker["state"]
    if not same:
        raise ModelError("The weights on disk changed while they were evaluated; start again.")
    return job.count(predictor, keys)


def _described(
    predictor: Predictor, view: FewShotView, protocol: EpisodeProtocol, command: str | None
) -> Evaluation:
    settings = {"split": view.split, "classes": view.kind, "minimum_pixels": view.minimum_pixels}
    method = predictor.method
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


def _missing(record: Evaluation) -> list[int]:
    done = {result.seed for result in record.per_seed}
    return [seed for seed in record.seeds if seed not in done]


def _check_file(protocol: EpisodeProtocol, view: FewShotView) -> None:
    file = protocol.file
    if file is None:
        return
    file.check(view.dataset)
    for name, own in (("fold", view.fold), ("split", view.split), ("classes", view.kind)):
        if getattr(file, name) != own:
            raise UsageError(
                f"The episodes of the file are for the {name} {getattr(file, name)}, not {own}; "
                f"evaluate that one or give another file."
            )
    foreign = {key.class_index for key in file.episodes} - set(view.classes)
    if foreign:
        name = view.dataset.class_names[min(foreign)]
        raise UsageError(
            f"The episodes of the file ask for {name!r}, which is no {view.kind} class of fold "
            f"{view.fold} here; draw other episodes."
        )


def _new_meter(view: FewShotView) -> FewShotIoU:
    return FewShotIoU([view.dataset.class_names[index] for index in view.classes])


def _others(episode: Episode, view: FewShotView, candidates: Candidates) -> tuple[str, ...]:
    if candidates == "target":
        return ()
    return tuple(
        name
        for index, name in enumerate(view.dataset.class_names)
        if index != episode.class_index and episode.query.mask(index).any()
    )
