"""The paper's comparison, on whatever images: every decoder with every prior on novel classes.

Beside the decoders stand each prior alone, cut at a threshold that base classes chose, and the
segmenter, which needs no training. All answer the same episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from piclip.clip.cache import FeatureCache
from piclip.clip.encoder import Encoder
from piclip.datasets.dataset import Dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.pspnet import PSPNet
from piclip.decoders.saved import Checkpoint
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import PiclipError
from piclip.evaluation.evaluate import EpisodeProtocol, choose_threshold, evaluate
from piclip.evaluation.predictor import Predictor
from piclip.evaluation.records import read_result
from piclip.evaluation.tables import make_tables, render
from piclip.io.documents import read_json
from piclip.io.outputs import atomic_path, write_json
from piclip.segmenter import FewShotSegmenter
from piclip.training.recipe import Recipe, load_recipe
from piclip.training.train import train, train_base_learner
from world.jobs import Part, is_done, run
from world.page import page_tables, write_tables
from world.prior_alone import PriorAlone

PRIORS = {
    "none": ("prior=none",),
    "imagenet": ("prior=imagenet",),
    "vtp": ("prior=piclip", "clip.text=plain", "clip.visual=none"),
    "vtp+pir": ("prior=piclip", "clip.text=refined", "clip.visual=none"),
    "vvp": ("prior=piclip", "clip.text=none", "clip.visual=plain"),
    "vtp+vvp": ("prior=piclip", "clip.text=plain", "clip.visual=plain"),
    "piclip": ("prior=piclip",),
}
"""The priors of the paper's tables, as changes to a recipe."""


@dataclass(frozen=True, kw_only=True)
class Comparison(ABC):
    """What is trained and how much is asked.

    Attributes:
        results: Folder of the result files.
        runs: Folder of the trainings, of the cache of features and of the log.
        recipes: Folder of the recipes.
        folds: Which folds are held out in turn; one is finished before the next begins.
        decoders: Which decoders, by the names of their recipes.
        priors: Which priors.
        shots: Numbers of supports in the evaluation; training is with one.
        seeds: Independent draws of the test episodes.
        episodes: Test episodes of each seed.
        threshold_episodes: Episodes of base classes that choose a threshold.
        overrides: Changes to every recipe.
        untrained: Whether what needs no training is evaluated, too.
    """

    results: Path
    runs: Path
    recipes: Path
    folds: tuple[int, ...] = (0, 1, 2, 3)
    decoders: tuple[str, ...] = ("pfenet", "bam", "hdmnet")
    priors: tuple[str, ...] = tuple(prior for prior in PRIORS if prior != "vtp+vvp")
    shots: tuple[int, ...] = (1, 5)
    seeds: int = 5
    episodes: int = 40
    threshold_episodes: int = 100
    overrides: tuple[str, ...] = ()
    untrained: bool = True

    command: ClassVar[str]
    """The command, for the record."""
    segmenters: ClassVar[Mapping[str, str]]
    """What the segmenter is told, and what its row is called."""

    @abstractmethod
    def places(self, fold: int) -> tuple[str, ...]:
        """Where data and models of a fold are, as changes to a recipe."""

    @abstractmethod
    def dataset(self, fold: int) -> Dataset:
        """The images of a fold, read once in each process."""

    @abstractmethod
    def encoder(self) -> Encoder:
        """The CLIP, read once in each process."""

    @abstractmethod
    def segmenter(self, fold: int, kind: str) -> FewShotSegmenter:
        """The segmenter of a fold that is told so much."""

    def preparations(self) -> list[Part]:
        """What all trainings are built on."""
        return []

    def phases(self) -> tuple[list[Part], list[Part], list[Part], list[Part]]:
        """What all is built on; base learners; priors and decoders, fold by fold; segmenters."""
        learners: list[Part] = [[(self.base(f), partial(self.learn_base, f))] for f in self.folds]
        parts: list[Part] = []
        for fold in self.folds:
            priors = [prior for prior in self.priors if prior != "none" and self.untrained]
            parts += [self._evaluations(f"threshold-{p}", fold, self.threshold, p) for p in priors]
            for decoder in self.decoders:
                for prior in self.priors:
                    folder = self.run_folder(fold, decoder, prior)
                    step = partial(self.learn, fold, decoder, prior)
                    asked = self._evaluations(folder.name, fold, self.decode, folder)
                    parts.append([(folder / "decoder", step), *asked])
        kinds = self.segmenters if self.untrained else ()
        without = [
            self._evaluations(f"segmenter-{kind}", fold, self.segment, kind)
            for fold in self.folds
            for kind in kinds
        ]
        return self.preparations(), learners, parts, without

    def is_done(self, shown: Path) -> bool:
        """Whether what shows that a step is done does so."""
        return is_done(shown, self.seeds, self.episodes)

    def base(self, fold: int) -> Path:
        """The base learner of a fold."""
        return self.runs / f"fold{fold}" / "base-learner" / "base"

    def run_folder(self, fold: int, decoder: str, prior: str) -> Path:
        """The folder of a training."""
        return self.runs / f"fold{fold}" / f"{decoder}-{prior}"

    @property
    def cache(self) -> Path:
        """Folder of the features."""
        return self.runs / "features"

    def recipe(self, fold: int, decoder: str, *changes: str) -> Recipe:
        """The recipe of a training."""
        own = (f"fold={fold}", f"clip.cache={json.dumps(str(self.cache))}", *self.places(fold))
        return load_recipe(self.recipes / f"{decoder}.yaml", (*own, *self.overrides, *changes))

    def _evaluations(self, name: str, fold: int, step: Any, what: object) -> Part:  # noqa: ANN401
        files = {k: self.results / f"{name}-fold{fold}-{k}shot.json" for k in self.shots}
        return [(file, partial(step, fold, k, file, what)) for k, file in files.items()]

    # The steps; each runs in a process that has nothing but its arguments.

    def learn_base(self, fold: int) -> None:
        """Trains the base learner of a fold."""
        train_base_learner(self.recipe(fold, self.decoders[0]), self.base(fold).parent)

    def learn(self, fold: int, decoder: str, prior: str) -> None:
        """Trains a decoder."""
        base = f"base.folder={json.dumps(str(self.base(fold)))}"
        recipe = self.recipe(fold, decoder, base, *PRIORS[prior])
        folder, dataset = self.run_folder(fold, decoder, prior), self.dataset(fold)
        train(recipe, folder, encoder=self.encoder(), dataset=dataset)

    def decode(self, fold: int, shots: int, file: Path, folder: Path) -> None:
        """Evaluates a trained decoder."""
        checkpoint = Checkpoint.find(folder)
        cache = FeatureCache(self.cache)
        clip = self.encoder() if checkpoint.value("prior") == "piclip" else None
        scorer = DecoderScorer.load(folder, clip=clip, device="cpu", cache=cache)
        segmenter = FewShotSegmenter(scorer)
        self._evaluate(fold, shots, file, Predictor(segmenter, recipe=checkpoint.recipe))

    def threshold(self, fold: int, shots: int, file: Path, prior: str) -> None:
        """Evaluates a prior that is cut where it is best on the training's images."""
        recipe = self.recipe(fold, self.decoders[0], *PRIORS[prior])
        clip, cache = recipe.clip, FeatureCache(self.cache)
        maker = PriorMaker(self.encoder(), text=clip.text, visual=clip.visual, cache=cache)
        scorer = DecoderScorer(self._alone(fold, recipe), maker, size=recipe.augmentation.size)
        predictor = Predictor(FewShotSegmenter(scorer))
        base = FewShotView(
            self.dataset(fold), fold=fold, split="train", classes="base", minimum_images=shots + 1
        )
        chosen = choose_threshold(predictor, base, shots=shots, episodes=self.threshold_episodes)
        self._evaluate(fold, shots, file, replace(predictor, threshold=chosen))

    def _alone(self, fold: int, recipe: Recipe) -> PriorAlone:
        """The prior of a recipe on the backbone that the base learner has."""
        decoder = PriorAlone(
            backbone=recipe.decoder.backbone,
            backbone_options=recipe.decoder.backbone_options,
            prior=recipe.prior,
        )
        decoder.load_base_learner(PSPNet.from_pretrained(self.base(fold)))
        return decoder

    def segment(self, fold: int, shots: int, file: Path, kind: str) -> None:
        """Evaluates the segmenter without training."""
        self._evaluate(fold, shots, file, Predictor(self.segmenter(fold, kind)))

    def _evaluate(self, fold: int, shots: int, file: Path, predictor: Predictor) -> None:
        dataset = self.dataset(fold)
        evaluate(
            replace(predictor, synonyms=dataset.synonyms),
            FewShotView(dataset, fold=fold, split="val", classes="novel"),
            EpisodeProtocol(shots, tuple(range(self.seeds)), self.episodes),
            output=file,
            command=self.command,
        )
        print(file.name, read_result(file).miou)


def report(plan: Comparison) -> None:
    """Writes tables beside the folder of results, of the folds that are done but for the segmenter.

    Raises:
        PiclipError: No fold is done, or a file cannot be written.
    """
    folds = [fold for fold in plan.folds if all(map(plan.is_done, _files(plan, fold)))]
    found = {file.stem: read_result(file) for file in sorted(plan.results.glob("*.json"))}
    results = {name: each for name, each in found.items() if each.fold in folds and each.complete}
    place = plan.results.parent
    done = replace(plan, folds=tuple(folds))
    trainings = list(_trainings(done, place / "trainings.json"))
    write_json({"trainings": trainings}, place / "trainings.json")
    for style in ("main", "priors"):
        tables = make_tables([*results.items()], style)
        text = "\n".join(render(table, "markdown") for table in tables)
        with atomic_path(place / f"{style}.md") as path:
            path.write_text(text, encoding="utf-8")
    if (place / "README.md").is_file():
        text = page_tables(results, trainings, folds, plan.segmenters)
        write_tables(place / "README.md", text)


def _files(plan: Comparison, fold: int) -> list[Path]:
    """The result files of the priors and decoders of a fold."""
    parts = replace(plan, folds=(fold,)).phases()[2]
    return [shown for part in parts for shown, _ in part if shown.suffix == ".json"]


def _trainings(plan: Comparison, earlier: Path) -> Iterator[dict[str, Any]]:
    """The base classes' mIoU by step, of every training that is done.

    Those that were made on another computer are taken over from the earlier report.
    """
    there = read_json(earlier)["trainings"] if earlier.is_file() else []
    known = {(each["fold"], each["decoder"], each["prior"]): each for each in there}
    for fold, decoder, prior in product(plan.folds, plan.decoders, plan.priors):
        file = plan.run_folder(fold, decoder, prior) / "decoder" / "training.json"
        if file.is_file():
            record = read_json(file)
            scores = {step: round(100 * s, 2) for step, s in record["scores"].items()}
            which = {"fold": fold, "decoder": decoder, "prior": prior}
            yield {**which, "chosen": record["step"], "scores": scores}
        elif (fold, decoder, prior) in known:
            yield known[fold, decoder, prior]


def asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of a comparison, with the options that all of them have."""
    parser.add_argument("--output", type=Path, help="folder of the results")
    parser.add_argument("--runs", type=Path, help="folder of the trainings")
    parser.add_argument("--quick", action="store_true", help="one fold, short trainings: minutes")
    parser.add_argument("--report", action="store_true", help="tables alone, of what is there")
    parser.add_argument(
        "--folds",
        type=int,
        nargs="+",
        choices=range(4),
        help="these alone; tables are of all that are done",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at once")
    return parser.parse_args()


def compare(plan: Comparison, options: argparse.Namespace) -> int:
    """Does what is asked; returns the exit code."""
    folds = tuple(options.folds or plan.folds)
    try:
        if not options.report:
            plan.results.mkdir(parents=True, exist_ok=True)
            phases = replace(plan, folds=folds).phases()
            run(phases, options.workers, done=plan.is_done, log=plan.runs / "log")
        report(replace(plan, folds=tuple(sorted({*plan.folds, *folds}))))
    except PiclipError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
