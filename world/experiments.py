"""The paper's comparison on the built-in world: every decoder, the previous prior against ours.

Trains one base learner per fold, every decoder on it with every prior, and evaluates each on the
novel classes of the fold; a run that is there already is not repeated. Folds do not depend on each
other, so they share out the cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Empty, Queue

from piclip.clip.cache import MemoryCache
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Split
from piclip.datasets.few_shot import Classes, FewShotView
from piclip.decoders.saved import Checkpoint
from piclip.evaluation.decoder_predictor import DecoderPredictor
from piclip.evaluation.evaluate import EpisodeProtocol, evaluate
from piclip.evaluation.predictors import TrainingFree
from piclip.evaluation.records import read_result
from piclip.io.outputs import Progress
from piclip.segmenter import FewShotSegmenter
from piclip.training.kept_dataset import KeptDataset
from piclip.training.recipe import load_recipe
from piclip.training.train import train, train_base_learner
from world.workers import worker_pool

DECODERS = ("pfenet", "bam", "hdmnet")
MAIN = {prior: (f"prior={prior}",) for prior in ("imagenet", "piclip")}
"""The priors of the main table, as changes to the recipe."""
ABLATION = {
    "vtp": ("prior=piclip", "clip.text=plain", "clip.visual=none"),
    "vtp+pir": ("prior=piclip", "clip.text=refined", "clip.visual=none"),
    "vvp": ("prior=piclip", "clip.text=none", "clip.visual=plain"),
    "vtp+vvp": ("prior=piclip", "clip.text=plain", "clip.visual=plain"),
    "none": ("prior=none",),
}
"""The rows of the ablation that are not in the main table."""


@dataclass(frozen=True)
class Plan:
    """What is trained and how much is asked.

    Attributes:
        folds: Which folds are held out in turn.
        decoders: Which decoders, by the names of their recipes.
        ablated: The decoder that the ablation is made with; None leaves the ablation out.
        shots: Numbers of supports in the evaluation, of the ablation the first alone; training is
            with one.
        seeds: Independent draws of the test episodes.
        episodes: Test episodes of each seed.
        overrides: Changes to every recipe.
    """

    folds: tuple[int, ...] = (0, 1, 2, 3)
    decoders: tuple[str, ...] = DECODERS
    ablated: str | None = "pfenet"
    shots: tuple[int, ...] = (1, 5)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 60
    overrides: tuple[str, ...] = ("workers=0",)


QUICK = Plan(
    folds=(0,),
    ablated=None,
    seeds=(0, 1),
    episodes=40,
    overrides=(
        "workers=0",
        "base.steps=100",
        "episodic.steps=200",  # by fewer, PFENet and BAM mark nothing yet, whatever the batch
        "episodic.batch=3",
        "episodic.optimizer.lr=2.0e-3",
        "dataset.options.train_images=400",
    ),
)
"""The same path in minutes; its figures say little."""


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        title: For people.
        done: Whether its result is there.
        work: Does it; told a function (done, total) for the progress.
    """

    title: str
    done: Callable[[], bool]
    work: Callable[[Progress], None]


@dataclass(frozen=True)
class Part:
    """What one process does from start to end.

    Attributes:
        fold: Whose classes are novel.
        decoder: Which decoder is trained and tested; None tests the segmenter without training.
        prior: The decoder's prior, a key of ``MAIN`` or ``ABLATION``; None trains the fold's base
            learner, on which all its decoders are built.
    """

    fold: int
    decoder: str | None = None
    prior: str | None = None


@dataclass(frozen=True)
class Report:
    """How far a part is.

    Attributes:
        part: Which one.
        title: What it does.
        done: Part of it that is done, of ``total``.
        total: Its size; 0 before it is known.
        finished: Whether the step has ended.
    """

    part: Part
    title: str
    done: int = 0
    total: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Experiments:
    """All runs and results of a plan.

    Attributes:
        plan: What to do.
        recipes: Folder of the recipes of the built-in world.
        runs: Folder of the trainings.
        results: Folder of the result files.
    """

    plan: Plan
    recipes: Path
    runs: Path
    results: Path

    def phases(self) -> list[list[Part]]:
        """What can be done side by side, phase after phase, the main table before the ablation."""
        folds, ablated = self.plan.folds, self.plan.ablated
        rows = [(decoder, prior) for decoder in self.plan.decoders for prior in MAIN]
        main = [Part(fold, *row) for fold in folds for row in rows]
        ablation = [Part(fold, ablated, row) for row in ABLATION for fold in folds if ablated]
        untrained = [Part(fold, None, "own") for fold in folds]
        return [[Part(fold) for fold in folds], main + ablation + untrained]

    def steps(self, part: Part) -> Iterator[Step]:
        """What a part consists of, in order."""
        if part.prior is None:
            yield self._base(part.fold)
        elif part.decoder is None:
            for shots in self.plan.shots:
                yield self._training_free(part.fold, shots)
        else:
            run = self.runs / f"fold{part.fold}" / f"{part.decoder}-{part.prior}"
            yield self._training(part.fold, part.decoder, run, (MAIN | ABLATION)[part.prior])
            for shots in self.plan.shots if part.prior in MAIN else self.plan.shots[:1]:
                yield self._evaluation(part.fold, run, shots)

    def run(self, processes: int, report: Callable[[Report], None]) -> None:
        """Does all that is not done yet.

        Args:
            processes: How many parts at a time, each in a process with one thread.
            report: Told about every step; called in this process.

        Raises:
            PiclipError: A step failed; what is finished is kept.
        """
        with worker_pool(processes) as (pool, reports):
            for parts in self.phases():
                jobs = [pool.submit(_run, self, part, reports) for part in parts]
                waiting = set(jobs)
                while waiting or not reports.empty():
                    with suppress(Empty):
                        report(reports.get(timeout=0.2))
                    waiting = {job for job in waiting if not job.done()}
                for job in jobs:
                    job.result()

    def result_files(self) -> list[Path]:
        """The results that are there."""
        return sorted(self.results.glob("*.json"))

    def _base_folder(self, fold: int) -> Path:
        return self.runs / f"fold{fold}" / "base-learner"

    def _base(self, fold: int) -> Step:
        folder = self._base_folder(fold)

        def work(progress: Progress) -> None:
            changes = (*self.plan.overrides, f"fold={fold}")
            recipe = load_recipe(self.recipes / f"{self.plan.decoders[0]}.yaml", changes)
            train_base_learner(recipe, folder, lambda p: progress(p.step, p.steps))

        return Step(f"fold {fold}: base learner", (folder / "base").is_dir, work)

    def _training(self, fold: int, decoder: str, run: Path, changes: Sequence[str]) -> Step:
        def work(progress: Progress) -> None:
            base = f"base.folder={self._base_folder(fold) / 'base'}"
            overrides = (*self.plan.overrides, f"fold={fold}", base, *changes)
            recipe = load_recipe(self.recipes / f"{decoder}.yaml", overrides)
            train(recipe, run, lambda p: progress(p.step, p.steps))

        return Step(f"fold {fold}: training {run.name}", (run / "decoder").is_dir, work)

    def _evaluation(self, fold: int, run: Path, shots: int) -> Step:
        output = self.results / f"{run.name}-fold{fold}-{shots}shot.json"

        def work(progress: Progress) -> None:
            view = self._view(fold, "novel", "val")
            predictor = DecoderPredictor.load(
                Checkpoint.find(run), view.dataset.synonyms, cache=_features()
            )
            evaluate(predictor, view, self._protocol(shots), output=output, progress=progress)

        return Step(f"fold {fold}: {run.name}, {shots}-shot", self._complete(output), work)

    def _training_free(self, fold: int, shots: int) -> Step:
        output = self.results / f"training-free-fold{fold}-{shots}shot.json"

        def work(progress: Progress) -> None:
            predictor = TrainingFree(FewShotSegmenter.from_pretrained("builtin"))
            view = self._view(fold, "novel", "val")
            evaluate(predictor, view, self._protocol(shots), output=output, progress=progress)

        title = f"fold {fold}: segmenter without training, {shots}-shot"
        return Step(title, self._complete(output), work)

    def _view(self, fold: int, classes: Classes, split: Split) -> FewShotView:
        return FewShotView(_scenes(self.runs), fold=fold, split=split, classes=classes)

    def _protocol(self, shots: int) -> EpisodeProtocol:
        return EpisodeProtocol(shots, self.plan.seeds, self.plan.episodes)

    def _complete(self, output: Path) -> Callable[[], bool]:
        def complete() -> bool:
            if not output.exists():
                return False
            there = read_result(output)
            asked = replace(there, seeds=self.plan.seeds)
            return there.episodes == self.plan.episodes and asked.complete

        return complete


@cache
def _features() -> MemoryCache:
    """CLIP's features of the test images, for all evaluations in a process."""
    return MemoryCache()


@cache
def _scenes(runs: Path) -> KeptDataset:
    """The test images, drawn once in a process."""
    return KeptDataset(open_dataset("scenes", cache=runs / "presence"))


def _run(experiments: Experiments, part: Part, reports: Queue[Report]) -> None:
    for step in experiments.steps(part):
        if not step.done():
            reports.put(Report(part, step.title))

            def show(done: int, total: int | None, title: str = step.title) -> None:
                reports.put(Report(part, title, done, total or 0))

            step.work(show)
        reports.put(Report(part, step.title, finished=True))
