"""The paper's comparison on real photographs: ``python -m world.photographs --data FOLDER``.

A reduced PASCAL-5i of VOC photographs with a frozen ViT of ImageNet for backbone, so that the
previous prior is made of features that know photographs. Trains every decoder with every prior on
the base classes of each fold and evaluates it on the novel ones; beside them each prior cut at a
threshold that base classes chose, and the segmenter without training. The texts are those of
`world.stand_in`, for the same network. What is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from piclip.clip.cache import FeatureCache
from piclip.clip.towers import VisualTower
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.backbones import resize
from piclip.decoders.base import DecoderOptions, DecoderOutput, EpisodeFeatures, FewShotDecoder
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.saved import Checkpoint
from piclip.decoders.scorer import DecoderScorer
from piclip.decoders.trained import TrainedDecoder
from piclip.errors import PiclipError
from piclip.evaluation.evaluate import EpisodeProtocol, choose_threshold, evaluate
from piclip.evaluation.predictor import Predictor
from piclip.evaluation.records import read_result
from piclip.evaluation.tables import make_tables, render
from piclip.io.outputs import atomic_path, write_json
from piclip.segmenter import FewShotSegmenter
from piclip.training.recipe import Recipe, load_recipe
from piclip.training.train import train, train_base_learner
from piclip.training_free.scorer import TrainingFreeScorer
from world.experiments import ABLATION, MAIN, Part, is_done, run
from world.photographs_page import page_tables, write_tables
from world.stand_in import StandIn

MODEL = "facebook/deit-tiny-patch16-224"
LISTS = Path("benchmarks/photos5i")
PRIORS = ("none", "imagenet", "vtp", "vtp+pir", "vvp", "piclip")
"""By their names in `world.experiments`; all but vtp, vtp+pir and piclip do without texts."""


class PriorAlone(FewShotDecoder):
    """A prior as it enters a decoder, for its scores; nothing is trained."""

    name = "threshold"
    Options = DecoderOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        self.reduce_query = self.reduce_support = torch.nn.Sequential()

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See `FewShotDecoder.decode`; the sigmoid of the scores is the mean of the maps."""
        count, shots = episodes.masks.shape[:2]
        weights = episodes.query.middle.new_full((count, shots), 1 / shots)
        maps = self.prior_maps(episodes, weights)
        there = maps.flatten(2).amax(2) > 0  # a map that is left out is zero
        mean = maps.sum(1, keepdim=True) / there.sum(1).clamp(min=1)[:, None, None, None]
        foreground = resize(mean, episodes.masks.shape[-2:]).clamp(0, 1).logit(eps=1e-6)
        return DecoderOutput(torch.cat([torch.zeros_like(foreground), foreground], 1))


@dataclass(frozen=True)
class Photographs:
    """What is trained and how much is asked; see `world.experiments.Plan`.

    Attributes:
        data: VOC's photographs, as `piclip.datasets.photographs.open_listed` takes them.
        model: Name or folder of the ViT that classifies ImageNet.
        results: Folder of the result files.
        runs: Folder of the trainings and of the cache of features.
        folds: Which folds are held out in turn; one is finished before the next begins.
        decoders: Which decoders, by the names of their recipes.
        priors: Which priors.
        shots: Numbers of supports in the evaluation; training is with one.
        seeds: Independent draws of the test episodes.
        episodes: Test episodes of each seed.
        threshold_episodes: Episodes of base classes that choose a threshold.
        overrides: Changes to every recipe.
        lists: Folder with the lists of each fold.
        recipes: Folder of the recipes.
        untrained: Whether what needs no training is evaluated, too.
    """

    data: Path
    model: str
    results: Path
    runs: Path
    folds: tuple[int, ...] = (0, 1, 2, 3)
    decoders: tuple[str, ...] = ("pfenet", "bam", "hdmnet")
    priors: tuple[str, ...] = PRIORS
    shots: tuple[int, ...] = (1, 5)
    seeds: int = 5
    episodes: int = 40
    threshold_episodes: int = 100
    overrides: tuple[str, ...] = ()
    lists: Path = LISTS
    recipes: Path = Path("recipes/photographs")
    untrained: bool = True

    def phases(self) -> tuple[list[Part], list[Part], list[Part]]:
        """The base learners; priors and decoders, fold by fold; and the segmenter."""
        learners: list[Part] = [
            [(self.base(fold), partial(learn_base, self, fold))] for fold in self.folds
        ]
        parts: list[Part] = []
        for fold in self.folds:
            priors = [prior for prior in self.priors if prior != "none" and self.untrained]
            parts += [self._evaluations(f"threshold-{p}", fold, threshold, p) for p in priors]
            for decoder in self.decoders:
                for prior in self.priors:
                    folder = self.run(fold, decoder, prior)
                    step = partial(learn, self, fold, decoder, prior)
                    asked = self._evaluations(folder.name, fold, decode, folder)
                    parts.append([(folder / "decoder", step), *asked])
        kinds = SEGMENTERS if self.untrained else ()
        segmenters = [(fold, kind) for fold in self.folds for kind in kinds]
        without = [self._evaluations(f"segmenter-{n}", fold, segment, n) for fold, n in segmenters]
        return learners, parts, without

    def base(self, fold: int) -> Path:
        """The base learner of a fold."""
        return self.runs / f"fold{fold}" / "base-learner" / "base"

    def run(self, fold: int, decoder: str, prior: str) -> Path:
        """The folder of a training."""
        return self.runs / f"fold{fold}" / f"{decoder}-{prior}"

    def is_done(self, shown: Path) -> bool:
        """Whether a folder is there, or a result file with all that is asked."""
        return is_done(shown, self.seeds, self.episodes)

    def recipe(self, fold: int, decoder: str, *changes: str) -> Recipe:
        """The recipe of a training."""
        places = (
            f"fold={fold}",
            f"dataset.root={json.dumps(str(self.data))}",
            f"dataset.options.lists={json.dumps(str(self.lists / f'fold{fold}'))}",
            f"decoder.backbone_options.model={json.dumps(self.model)}",
            f"decoder.backbone_options.cache={json.dumps(str(self.cache))}",
            f"clip.cache={json.dumps(str(self.cache))}",
        )
        return load_recipe(self.recipes / f"{decoder}.yaml", (*places, *self.overrides, *changes))

    @property
    def cache(self) -> Path:
        """Folder of the features."""
        return self.runs / "features"

    def _evaluations(self, name: str, fold: int, step: Any, what: object) -> Part:  # noqa: ANN401
        files = {k: self.results / f"{name}-fold{fold}-{k}shot.json" for k in self.shots}
        return [(file, partial(step, self, fold, k, file, what)) for k, file in files.items()]


# The steps; each runs in a process that has nothing but its arguments.


def learn_base(plan: Photographs, fold: int) -> None:
    """Trains the base learner of a fold."""
    train_base_learner(plan.recipe(fold, plan.decoders[0]), plan.base(fold).parent)


def learn(plan: Photographs, fold: int, decoder: str, prior: str) -> None:
    """Trains a decoder."""
    base = f"base.folder={json.dumps(str(plan.base(fold)))}"
    recipe = plan.recipe(fold, decoder, base, *(MAIN | ABLATION)[prior])
    train(recipe, plan.run(fold, decoder, prior), encoder=_stand_in(plan.model))


def decode(plan: Photographs, fold: int, shots: int, file: Path, folder: Path) -> None:
    """Evaluates a trained decoder."""
    checkpoint = Checkpoint.find(folder)
    trained = TrainedDecoder.load(
        checkpoint, clip=_stand_in(plan.model), device="cpu", cache=FeatureCache(plan.cache)
    )
    segmenter = FewShotSegmenter(DecoderScorer(trained))
    _evaluate(plan, fold, shots, file, Predictor(segmenter, recipe=checkpoint.recipe))


def threshold(plan: Photographs, fold: int, shots: int, file: Path, prior: str) -> None:
    """Evaluates a prior that is cut where it is best on the training's images."""
    recipe = plan.recipe(fold, plan.decoders[0], *(MAIN | ABLATION)[prior])
    maker = PriorMaker(
        _stand_in(plan.model),
        text=recipe.clip.text,
        visual=recipe.clip.visual,
        cache=FeatureCache(plan.cache),
    )
    decoder = PriorAlone(
        backbone=recipe.decoder.backbone,
        backbone_options=recipe.decoder.backbone_options,
        prior=recipe.prior,
    )
    trained = TrainedDecoder(decoder, maker, size=recipe.augmentation.size)
    predictor = Predictor(FewShotSegmenter(DecoderScorer(trained)))
    base = FewShotView(
        _dataset(plan, fold), fold=fold, split="train", classes="base", minimum_images=shots + 1
    )
    chosen = choose_threshold(predictor, base, shots=shots, episodes=plan.threshold_episodes)
    _evaluate(plan, fold, shots, file, replace(predictor, threshold=chosen))


SEGMENTERS = ("named", "nameless")


def segment(plan: Photographs, fold: int, shots: int, file: Path, kind: str) -> None:
    """Evaluates the segmenter without training, as it is set, with texts or without any."""
    supports = FeatureCache(plan.cache)
    if kind == "named":
        scorer = TrainingFreeScorer(_stand_in(plan.model), cache=supports)
    else:
        tower = VisualTower.from_pretrained(plan.model, device="cpu")
        scorer = TrainingFreeScorer(None, tower, cache=supports)
    _evaluate(plan, fold, shots, file, Predictor(FewShotSegmenter(scorer)))


def _evaluate(plan: Photographs, fold: int, shots: int, file: Path, predictor: Predictor) -> None:
    dataset = _dataset(plan, fold)
    view = FewShotView(dataset, fold=fold, split="val", classes="novel")
    evaluate(
        replace(predictor, synonyms=dataset.synonyms),
        view,
        EpisodeProtocol(shots, tuple(range(plan.seeds)), plan.episodes),
        output=file,
        command="python -m world.photographs",
    )
    print(file.name, read_result(file).miou)


@cache
def _stand_in(model: str) -> StandIn:
    return StandIn.of(model)


@cache
def _dataset(plan: Photographs, fold: int) -> Dataset:
    dataset = open_dataset("voc-photos", plan.data, lists=plan.lists / f"fold{fold}")
    dataset.keep_in_memory()
    return dataset


def report(plan: Photographs) -> None:
    """Writes tables beside the folder of results, of the folds that are done but for the segmenter.

    Raises:
        PiclipError: No fold is done, or a file cannot be written.
    """
    folds = [fold for fold in plan.folds if all(map(plan.is_done, _files(plan, fold)))]
    found = {file.stem: read_result(file) for file in sorted(plan.results.glob("*.json"))}
    results = {name: each for name, each in found.items() if each.fold in folds and each.complete}
    trainings = [each for each in _trainings(plan) if each["fold"] in folds]
    place = plan.results.parent
    write_json({"trainings": trainings}, place / "trainings.json")
    for style in ("main", "priors"):
        tables = make_tables([*results.items()], style)
        text = "\n".join(render(table, "markdown") for table in tables)
        with atomic_path(place / f"{style}.md") as path:
            path.write_text(text, encoding="utf-8")
    if (place / "README.md").is_file():
        write_tables(place / "README.md", page_tables(results, trainings, folds))


def _files(plan: Photographs, fold: int) -> list[Path]:
    """The result files of the priors and decoders of a fold."""
    parts = replace(plan, folds=(fold,)).phases()[1]
    return [shown for part in parts for shown, _ in part if shown.suffix == ".json"]


def _trainings(plan: Photographs) -> Iterator[dict[str, Any]]:
    """The base classes' mIoU by step, of every training that is done."""
    for fold in plan.folds:
        for decoder in plan.decoders:
            for prior in plan.priors:
                file = plan.run(fold, decoder, prior) / "decoder" / "training.json"
                if file.is_file():
                    record = json.loads(file.read_text(encoding="utf-8"))
                    scores = {step: round(100 * s, 2) for step, s in record["scores"].items()}
                    which = {"fold": fold, "decoder": decoder, "prior": prior}
                    yield {**which, "chosen": record["step"], "scores": scores}


QUICK = ("base.steps=40", "episodic.steps=60", "validation.every=30", "validation.episodes=20")

CONTROLS = {
    "shorter": ("episodic.steps=400",),
    "longer": ("episodic.steps=2000",),
    "again": ("seed=1",),
}
"""Changes under which the first fold is trained again, to see how much they matter."""


def main() -> int:
    """The command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/pascal"), help="VOC's photographs")
    parser.add_argument("--model", default=MODEL, help="name or folder of the ViT")
    parser.add_argument(
        "--output", type=Path, help=f"default: {LISTS}/results, or that of a control"
    )
    parser.add_argument("--runs", type=Path, help="default: runs/photographs, or one beside it")
    parser.add_argument("--quick", action="store_true", help="one fold, short trainings: minutes")
    parser.add_argument(
        "--control",
        choices=CONTROLS,
        help="one fold, trained for another time or from another seed",
    )
    parser.add_argument("--report", action="store_true", help="tables alone, of what is there")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at once")
    options = parser.parse_args()
    kind = "-quick" if options.quick else f"-{options.control}" if options.control else ""
    runs = options.runs or Path(f"runs/photographs{kind}")
    output = options.output or (runs if options.quick else Path(f"{LISTS}{kind}")) / "results"
    plan = Photographs(options.data, options.model, output, runs)
    if options.quick:  # the same path; its figures say little
        plan = replace(plan, folds=(0,), seeds=2, episodes=20, overrides=QUICK)
    elif options.control:
        changes, priors = CONTROLS[options.control], ("imagenet", "piclip", "none")
        plan = replace(plan, folds=(0,), priors=priors, overrides=changes, untrained=False)
    try:
        if not options.report:
            run(plan, options.workers)
        report(plan)
    except PiclipError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
