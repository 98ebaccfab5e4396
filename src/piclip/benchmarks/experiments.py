"""The paper's comparison on the built-in world: every decoder, the previous prior against ours.

Trains one base learner per fold, every decoder on it with every prior, and evaluates each on the
novel classes of the fold; a run that is there already is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from piclip.datasets.dataset import Split
from piclip.datasets.few_shot import Classes, FewShotView
from piclip.datasets.registry import open_dataset
from piclip.evaluation.decoder_predictor import Checkpoint, DecoderPredictor
from piclip.evaluation.evaluate import EpisodeProtocol, evaluate
from piclip.evaluation.predictors import TrainingFree, choose_threshold
from piclip.evaluation.results import read_result
from piclip.segmenter import FewShotSegmenter
from piclip.training.recipe import load_recipe
from piclip.training.train import train, train_base_learner

DECODERS = ("pfenet", "bam", "hdmnet")
PRIORS = ("imagenet", "piclip")
ABLATION = {
    "vtp": ("clip.text=plain", "clip.visual=none"),
    "vtp+pir": ("clip.text=refined", "clip.visual=none"),
    "vvp": ("clip.text=none", "clip.visual=plain"),
    "vtp+vvp": ("clip.text=plain", "clip.visual=plain"),
}
"""The rows of the ablation that are no row of the main table, as changes to the recipe."""
THRESHOLDED = ("vtp", "vtp+pir", "vvp", "vvp+pir", "piclip")
"""The priors that are also measured by themselves, cut at one threshold."""


@dataclass(frozen=True)
class Plan:
    """What is trained and how much is asked.

    Attributes:
        folds: Which folds are held out in turn.
        decoders: Which decoders, by the names of their recipes.
        ablated: The decoder that the ablation is made with; None leaves the ablation out.
        shots: Numbers of supports in the evaluation; training is with one.
        seeds: Independent draws of the test episodes.
        episodes: Test episodes of each seed.
        overrides: Changes to every recipe.
    """

    folds: tuple[int, ...] = (0, 1, 2, 3)
    decoders: tuple[str, ...] = DECODERS
    ablated: str | None = "hdmnet"
    shots: tuple[int, ...] = (1, 5)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    episodes: int = 200
    overrides: tuple[str, ...] = ()


QUICK = Plan(
    folds=(0,),
    ablated=None,
    seeds=(0, 1),
    episodes=60,
    overrides=("base.steps=150", "episodic.steps=100", "dataset.options.train_images=400"),
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
    work: Callable[[Callable[[int, int], None]], None]


@dataclass(frozen=True)
class Experiments:
    """All runs and results of a plan.

    Attributes:
        plan: What to do.
        recipes: Folder of the recipes of the built-in world.
        runs: Folder of the trainings.
        results: Folder of the result files.
        workers: Processes that share the test episodes.
    """

    plan: Plan
    recipes: Path
    runs: Path
    results: Path
    workers: int = 1
    _segmenter: list[FewShotSegmenter] = field(default_factory=list, repr=False)

    def steps(self) -> Iterator[Step]:
        """Everything in order: each fold's base learner, its decoders, their evaluation."""
        for fold in self.plan.folds:
            yield self._base(fold)
            for decoder, prior, changes in self._decoders():
                run = self.runs / f"fold{fold}" / f"{decoder}-{prior}"
                yield self._training(fold, decoder, run, changes)
                for shots in self.plan.shots:
                    yield self._evaluation(fold, run, shots)
            for threshold_of in (*THRESHOLDED, None):
                for shots in self.plan.shots:
                    yield self._training_free(fold, threshold_of, shots)

    def result_files(self) -> list[Path]:
        """The results that are there."""
        return sorted(self.results.glob("*.json"))

    def _decoders(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Decoder, name of its prior, and what that changes in the recipe."""
        for decoder in self.plan.decoders:
            for prior in PRIORS:
                yield decoder, prior, (f"prior={prior}",)
        if self.plan.ablated is not None:
            yield self.plan.ablated, "none", ("prior=none",)
            for prior, changes in ABLATION.items():
                yield self.plan.ablated, prior, ("prior=piclip", *changes)

    def _base_folder(self, fold: int) -> Path:
        return self.runs / f"fold{fold}" / "base-learner"

    def _base(self, fold: int) -> Step:
        folder = self._base_folder(fold)

        def work(progress: Callable[[int, int], None]) -> None:
            changes = (*self.plan.overrides, f"fold={fold}")
            recipe = load_recipe(self.recipes / f"{self.plan.decoders[0]}.yaml", changes)
            train_base_learner(recipe, folder, lambda p: progress(p.step, p.steps))

        return Step(f"fold {fold}: base learner", (folder / "base").is_dir, work)

    def _training(self, fold: int, decoder: str, run: Path, changes: Sequence[str]) -> Step:
        def work(progress: Callable[[int, int], None]) -> None:
            base = f"base.folder={self._base_folder(fold) / 'base'}"
            overrides = (*self.plan.overrides, f"fold={fold}", base, *changes)
            recipe = load_recipe(self.recipes / f"{decoder}.yaml", overrides)
            train(recipe, run, lambda p: progress(p.step, p.steps))

        return Step(f"fold {fold}: training {run.name}", (run / "decoder").is_dir, work)

    def _evaluation(self, fold: int, run: Path, shots: int) -> Step:
        output = self.results / f"{run.name}-fold{fold}-{shots}shot.json"

        def work(progress: Callable[[int, int], None]) -> None:
            view = self._view(fold, "novel", "val")
            predictor = DecoderPredictor.load(Checkpoint.find(run), view.dataset.wordings)
            evaluate(
                predictor,
                view,
                self._protocol(shots),
                workers=self.workers,
                output=output,
                progress=progress,
            )

        return Step(f"fold {fold}: {run.name}, {shots}-shot", self._complete(output), work)

    def _training_free(self, fold: int, prior: str | None, shots: int) -> Step:
        output = self.results / f"{prior or 'training'}-free-fold{fold}-{shots}shot.json"

        def work(progress: Callable[[int, int], None]) -> None:
            predictor = TrainingFree(self._own_segmenter(), prior=prior)
            if prior is not None:
                base = self._view(fold, "base", "train")
                predictor.threshold = choose_threshold(predictor, base, shots=shots)
            evaluate(
                predictor,
                self._view(fold, "novel", "val"),
                self._protocol(shots),
                workers=self.workers,
                output=output,
                progress=progress,
            )

        title = f"fold {fold}: {prior or 'segmenter'} without training, {shots}-shot"
        return Step(title, self._complete(output), work)

    def _own_segmenter(self) -> FewShotSegmenter:
        if not self._segmenter:
            self._segmenter.append(FewShotSegmenter.from_pretrained("builtin"))
        return self._segmenter[0]

    def _view(self, fold: int, classes: Classes, split: Split) -> FewShotView:
        dataset = open_dataset("scenes", cache=self.runs / "presence")
        return FewShotView(dataset, fold=fold, split=split, classes=classes)

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
