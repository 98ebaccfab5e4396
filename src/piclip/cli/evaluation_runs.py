"""From the arguments of ``piclip evaluate`` and ``piclip figure`` to views and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from piclip import FewShotSegmenter
from piclip.clip.encoder import DEFAULT_MODEL
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.saved import Checkpoint
from piclip.errors import UsageError
from piclip.evaluation.evaluate import choose_threshold
from piclip.evaluation.predictor import Predictor, load_decoder
from piclip.io.documents import parse_json
from piclip.training_free.scorer import EvidenceName, TrainingFreeScorer

TRAINING_FREE = "training-free"


@dataclass(frozen=True)
class EvaluateRequest:
    """What is evaluated on what, as the commands' options say it."""

    checkpoint: str = TRAINING_FREE
    dataset: str | None = None
    root: Path | None = None
    options: Sequence[str] = ()
    shot: int = 1
    prior: str | None = None
    threshold: float | None = None
    split: str = "val"
    minimum_images: int = 0
    model: str | None = None
    visual: str | None = None
    device: str = "auto"
    dtype: str | None = None

    def folds(self, fold: str | None) -> range:
        """The folds to run: that of a number, of "all", or of the training (else UsageError)."""
        if fold == "all":
            return range(self._open(0).folds())  # every fold's run names the same dataset
        if fold is None:
            checkpoint = None if "{fold}" in self.checkpoint else self._trained(0)
            fold = None if checkpoint is None else str(checkpoint.value("fold", default=""))
            if not fold:
                raise UsageError("Say which fold to evaluate, as in --fold 0, or --fold all.")
        if not fold.isdecimal():
            raise UsageError(f"The fold is a number or 'all', not {fold!r}.")
        return range(int(fold), int(fold) + 1)

    def view(self, fold: int) -> FewShotView:
        """The novel classes of a fold in the dataset that was asked for."""
        return FewShotView(
            self._open(fold),
            fold=fold,
            split=self.split,  # type: ignore[arg-type]  # refuses other splits
            classes="novel",
            minimum_images=self.minimum_images,
        )

    def predictor(self, view: FewShotView) -> Predictor:
        """The trained decoder, or the segmenter without training (or a PiclipError)."""
        checkpoint = self._trained(view.fold)
        if checkpoint is None:
            return self.training_free(view)
        if self.prior is not None or self.threshold is not None:
            raise UsageError(
                "A trained decoder has its own prior; leave out --prior and --threshold."
            )
        if self.visual is not None:
            raise UsageError("A trained decoder has its own backbone; leave out --visual.")
        trained_on, fold = checkpoint.value("dataset", "name"), checkpoint.value("fold")
        if trained_on == view.dataset.name and fold not in (None, view.fold):
            raise UsageError(
                f"{checkpoint.folder} was trained for fold {fold}, so it has seen the novel "
                f"classes of fold {view.fold}; evaluate fold {fold}, or name the runs of all folds "
                f"with {{fold}} in the path."
            )
        source = partial(load_decoder, checkpoint.folder, clip=self.model, **self._options())
        return Predictor.load(source, synonyms=view.dataset.synonyms, recipe=checkpoint.recipe)

    def training_free(self, view: FewShotView) -> Predictor:
        """The segmenter, or its priors at a threshold that base classes chose."""
        model = self.model or ("builtin" if view.dataset.name == "scenes" else DEFAULT_MODEL)
        evidence: EvidenceName = "contrast" if self.prior is None else "published"
        predictor = Predictor.load(
            partial(
                FewShotSegmenter.from_pretrained,
                model,
                visual=self.visual,
                evidence=evidence,
                **self._options(),
            ),
            prior=self.prior,
            threshold=self.threshold,
            synonyms=view.dataset.synonyms,
        )
        if not isinstance(predictor.segmenter.scorer, TrainingFreeScorer):
            raise UsageError(f"{model} is a trained decoder; name it as the CHECKPOINT.")
        if self.prior is None or self.threshold is not None:
            return predictor
        base = FewShotView(
            view.dataset,
            fold=view.fold,
            split="train",
            classes="base",
            novel_pixels="background",
            minimum_images=self.shot + 1,
        )
        return replace(predictor, threshold=choose_threshold(predictor, base, shots=self.shot))

    def _trained(self, fold: int) -> Checkpoint | None:
        """The trained decoder for a fold; None without training."""
        if self.checkpoint == TRAINING_FREE:
            return None
        return Checkpoint.find(self.checkpoint.replace("{fold}", str(fold)))

    def _options(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype or "auto"}

    def _open(self, fold: int) -> Dataset:
        """The dataset that was named, or that of the training."""
        checkpoint = self._trained(fold) if self.dataset is None else None
        trained = checkpoint.value("dataset", default={}) if checkpoint is not None else {}
        name, root = trained.get("name", self.dataset), self.root or trained.get("root")
        if name is None:
            raise UsageError("Say what to evaluate on, as in --dataset scenes.")
        options = (trained.get("options") or {}) | dict(map(_parsed, self.options))
        dataset = open_dataset(name, root or None, **options)
        if name == "scenes":
            dataset.keep_in_memory()
        return dataset


def _parsed(option: str) -> tuple[str, Any]:
    """``key=value`` with a value in JSON, or else a text as it stands."""
    key, equals, value = option.partition("=")
    if not equals or not key:
        raise UsageError(f"An option of the dataset is written KEY=VALUE, not {option!r}.")
    try:
        return key, parse_json(value)
    except ValueError:
        return key, value
