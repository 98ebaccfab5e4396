"""The paper's comparison on the built-in world: ``python -m world.experiments``.

The backbone is trained on what whole scenes show, of all classes (`world.pretraining`), and
frozen, so that the previous prior is made of features as a network of ImageNet would give them;
the CLIP is the built-in one. What is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from piclip.clip.encoder import Encoder
from piclip.clip.towers import VisualTower
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset
from piclip.datasets.few_shot import FewShotView
from piclip.evaluation.calibration import Case, calibrate, save_calibrated
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer
from world.comparison import Comparison, asked, compare
from world.jobs import Part
from world.pretraining import EPOCHS, SCENES, pretrain

RESULTS = Path("benchmarks/scenes5i")


@dataclass(frozen=True, kw_only=True)
class Scenes(Comparison):
    """See `Comparison`.

    Attributes:
        pretraining: Scenes that the backbone learns from, and how often it sees each.
        cases: Episodes of base classes that set the segmenter's constants, of one support and of
            five each.
    """

    recipes: Path = Path("recipes/scenes")
    pretraining: tuple[int, int] = (SCENES, EPOCHS)
    cases: int = 60

    command: ClassVar = "python -m world.experiments"
    segmenters: ClassVar = {"named": "segmenter, named", "nameless": "segmenter, no text"}

    def places(self, fold: int) -> tuple[str, ...]:
        """See `Comparison.places`."""
        return (f"decoder.backbone_weights={json.dumps(str(self.weights))}",)

    @property
    def weights(self) -> Path:
        """The backbone's."""
        return self.runs / "backbone.safetensors"

    def preparations(self) -> list[Part]:
        """The backbone, and the segmenter's constants by the base classes of each fold."""
        width = self.recipe(0, self.decoders[0]).decoder.backbone_options["width"]
        scenes, epochs = self.pretraining
        record = self.results.parent / "backbone.json"
        step = partial(pretrain, self.weights, record, width, scenes=scenes, epochs=epochs)
        parts: list[Part] = [[(self.weights, step)]]
        if self.untrained:
            parts += [[(self.calibrated(f), partial(self.calibrate, f))] for f in self.folds]
        return parts

    def calibrated(self, fold: int) -> Path:
        """The built-in model with constants of the base classes."""
        return self.runs / f"fold{fold}" / "calibrated"

    def calibrate(self, fold: int) -> None:
        """Sets the segmenter's constants on base classes of the training's scenes."""
        scorer = TrainingFreeScorer(Encoder.from_pretrained("builtin", device="cpu"))
        base = FewShotView(
            self.dataset(fold), fold=fold, split="train", classes="base", minimum_images=6
        )
        cases = [_case(base, number, shots) for shots in (1, 5) for number in range(self.cases)]
        found = calibrate(scorer, cases)
        save_calibrated(scorer, found.settings, self.calibrated(fold))

    def dataset(self, fold: int) -> Dataset:
        """See `Comparison.dataset`."""
        options = self.recipe(fold, self.decoders[0]).dataset.options
        return _dataset(json.dumps(options), self.runs / "presence")

    def encoder(self) -> Encoder:
        """See `Comparison.encoder`."""
        return _builtin()

    def segmenter(self, fold: int, kind: str) -> FewShotSegmenter:
        """With the constants of the fold's base classes, asked by name or without any text."""
        folder = self.calibrated(fold)
        if kind == "named":
            return FewShotSegmenter.from_pretrained(folder, device="cpu")
        tower = VisualTower.from_pretrained(folder, device="cpu")
        return FewShotSegmenter(TrainingFreeScorer(None, tower))


def _case(view: FewShotView, number: int, shots: int) -> Case:
    """An episode of the view, for calibration."""
    episode = view.load(view.episode(0, number, shots))
    own = episode.class_index
    return Case.of(episode.name, episode.supports, own, episode.query, own)


@cache
def _builtin() -> Encoder:
    return Encoder.from_pretrained("builtin", device="cpu")


@cache
def _dataset(options: str, counts: Path) -> Dataset:
    dataset = open_dataset("scenes", None, cache=counts, **json.loads(options))
    dataset.keep_in_memory()
    return dataset


QUICK = (
    "base.steps=100",
    "episodic.steps=200",  # by 60, PFENet marks nothing yet
    "validation.every=100",
    "validation.episodes=20",
    "episodic.optimizer.lr=2.0e-3",
    "dataset.options.train_images=400",
)


def main() -> int:
    """The command line of the module."""
    options = asked(argparse.ArgumentParser(description=__doc__))
    kind = "-quick" if options.quick else ""
    runs = options.runs or Path(f"runs/experiments{kind}")
    output = options.output or (runs if options.quick else RESULTS) / "results"
    plan = Scenes(results=output, runs=runs)
    if options.quick:  # the same path; its figures say little
        plan = replace(
            plan,
            folds=(0,),
            priors=("none", "imagenet", "piclip"),
            seeds=2,
            episodes=20,
            overrides=QUICK,
            pretraining=(400, 2),
            cases=10,
        )
    return compare(plan, options)


if __name__ == "__main__":
    sys.exit(main())
