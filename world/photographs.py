"""The paper's comparison on real photographs: ``python -m world.photographs --data FOLDER``.

A reduced PASCAL-5i of VOC photographs with a frozen ViT of ImageNet for backbone, so that the
previous prior is made of features that know photographs. The texts are those of `world.stand_in`,
for the same network. What is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

from piclip.clip.cache import FeatureCache
from piclip.clip.encoder import Encoder
from piclip.clip.towers import VisualTower
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer
from world.comparison import Comparison, asked, compare
from world.stand_in import StandIn

MODEL = "facebook/deit-tiny-patch16-224"
LISTS = Path("benchmarks/photos5i")


@dataclass(frozen=True, kw_only=True)
class Photographs(Comparison):
    """See `Comparison`.

    Attributes:
        data: VOC's photographs, as `piclip.datasets.photographs.open_listed` takes them.
        model: Name or folder of the ViT that classifies ImageNet.
        lists: Folder with the lists of each fold.
    """

    data: Path
    model: str = MODEL
    lists: Path = LISTS
    recipes: Path = Path("recipes/photographs")

    command: ClassVar = "python -m world.photographs"
    segmenters: ClassVar = {
        "named": "segmenter, stand-in texts",
        "nameless": "segmenter, no text",
    }

    def places(self, fold: int) -> tuple[str, ...]:
        """See `Comparison.places`."""
        return (
            f"dataset.root={json.dumps(str(self.data))}",
            f"dataset.options.lists={json.dumps(str(self.lists / f'fold{fold}'))}",
            f"decoder.backbone_options.model={json.dumps(self.model)}",
            f"decoder.backbone_options.cache={json.dumps(str(self.cache))}",
        )

    def dataset(self, fold: int) -> Dataset:
        """See `Comparison.dataset`."""
        return _dataset(self.data, self.lists / f"fold{fold}")

    def encoder(self) -> Encoder:
        """See `Comparison.encoder`."""
        return _stand_in(self.model)

    def segmenter(self, fold: int, kind: str) -> FewShotSegmenter:
        """As it is set, with texts or without any."""
        supports = FeatureCache(self.cache)
        if kind == "named":
            return FewShotSegmenter(TrainingFreeScorer(self.encoder(), cache=supports))
        tower = VisualTower.from_pretrained(self.model, device="cpu")
        return FewShotSegmenter(TrainingFreeScorer(None, tower, cache=supports))


@cache
def _stand_in(model: str) -> StandIn:
    return StandIn.of(model)


@cache
def _dataset(data: Path, lists: Path) -> Dataset:
    dataset = open_dataset("voc-photos", data, lists=lists)
    dataset.keep_in_memory()
    return dataset


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
        "--control",
        choices=CONTROLS,
        help="one fold, trained for another time or from another seed",
    )
    options = asked(parser)
    kind = "-quick" if options.quick else f"-{options.control}" if options.control else ""
    runs = options.runs or Path(f"runs/photographs{kind}")
    output = options.output or (runs if options.quick else Path(f"{LISTS}{kind}")) / "results"
    plan = Photographs(results=output, runs=runs, data=options.data, model=options.model)
    if options.quick:  # the same path; its figures say little
        plan = replace(plan, folds=(0,), seeds=2, episodes=20, overrides=QUICK)
    elif options.control:
        changes, priors = CONTROLS[options.control], ("imagenet", "piclip", "none")
        plan = replace(plan, folds=(0,), priors=priors, overrides=changes, untrained=False)
    return compare(plan, options)


if __name__ == "__main__":
    sys.exit(main())
