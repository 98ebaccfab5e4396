"""From the arguments of ``piclip evaluate`` to predictors, views and results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piclip import FewShotSegmenter
from piclip.cli.options import DEFAULT_MODEL
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset
from piclip.datasets.episode_files import read_episodes
from piclip.datasets.few_shot import FewShotView
from piclip.decoders.saved import Checkpoint
from piclip.errors import UsageError
from piclip.evaluation.decoder_predictor import DecoderPredictor
from piclip.evaluation.evaluate import EpisodeProtocol, evaluate
from piclip.evaluation.predictors import Predictor, TrainingFree, choose_threshold
from piclip.evaluation.records import Evaluation
from piclip.io.documents import parse_json
from piclip.io.outputs import Progress

TRAINING_FREE = "training-free"


@dataclass(frozen=True)
class Request:
    """The arguments of the command."""

    checkpoint: str
    dataset: str | None = None
    root: Path | None = None
    options: tuple[str, ...] = ()
    shot: int = 1
    seeds: int = 5
    episodes: int = 1000
    episodes_file: Path | None = None
    candidates: str = "target"
    prior: str | None = None
    threshold: float | None = None
    split: str = "val"
    minimum_images: int = 0
    model: str | None = None
    device: str = "auto"
    dtype: str | None = None
    batch_size: int = 8
    workers: int = 1
    output: Path | None = None
    command: str | None = None

    def checkpoint_of(self, fold: int) -> Checkpoint | None:
        """The trained decoder for a fold; None without training."""
        if self.checkpoint == TRAINING_FREE:
            return None
        return Checkpoint.find(self.checkpoint.replace("{fold}", str(fold)))

    def output_of(self, fold: int, *, several: bool) -> Path | None:
        """The file for a fold's result."""
        if self.output is None:
            return None
        if "{fold}" in self.output.name:
            return self.output.with_name(self.output.name.replace("{fold}", str(fold)))
        if not several:
            return self.output
        return self.output.with_name(f"{self.output.stem}-fold{fold}{self.output.suffix}")


def folds_of(request: Request, fold: str | None) -> Iterator[tuple[int, bool]]:
    """The folds to run, and whether they are several.

    Raises:
        UsageError: The fold is no number, or not given where no training tells.
    """
    if fold == "all":
        for number in range(_open(request, 0).folds()):  # every fold's run names the same dataset
            yield number, True
        return
    if fold is None:
        checkpoint = None if "{fold}" in request.checkpoint else request.checkpoint_of(0)
        fold = None if checkpoint is None else str(checkpoint.value("fold", default=""))
        if not fold:
            raise UsageError("Say which fold to evaluate, as in --fold 0, or --fold all.")
    if not fold.isdecimal():
        raise UsageError(f"The fold is a number or 'all', not {fold!r}.")
    yield int(fold), False


def run_fold(
    request: Request,
    fold: int,
    *,
    several: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluates one fold.

    Raises:
        PiclipError: Dataset, decoder, CLIP or arguments do not do.
    """
    view = open_view(request, fold)
    return evaluate(
        load_predictor(request, view),
        view,
        _protocol(request),
        batch_size=request.batch_size,
        workers=request.workers,
        output=request.output_of(fold, several=several),
        command=request.command,
        progress=progress,
    )


def open_view(request: Request, fold: int) -> FewShotView:
    """The novel classes of a fold in the dataset that was asked for."""
    return FewShotView(
        _open(request, fold),
        fold=fold,
        split=request.split,  # type: ignore[arg-type]  # refuses other splits
        classes="novel",
        minimum_images=request.minimum_images,
    )


def load_predictor(request: Request, view: FewShotView) -> Predictor:
    """The trained decoder, or the segmenter without training."""
    checkpoint = request.checkpoint_of(view.fold)
    if checkpoint is None:
        return load_training_free(request, view)
    if request.prior is not None or request.threshold is not None:
        raise UsageError("A trained decoder has its own prior; leave out --prior and --threshold.")
    _refuse_a_leak(checkpoint, view)
    return DecoderPredictor.load(
        checkpoint,
        view.dataset.synonyms,
        clip=request.model,
        device=request.device,
        dtype=request.dtype,
    )


def _protocol(request: Request) -> EpisodeProtocol:
    if request.episodes_file is None:
        seeds = tuple(range(request.seeds))
        return EpisodeProtocol(request.shot, seeds, request.episodes, request.candidates)  # type: ignore[arg-type]
    return EpisodeProtocol.of_file(read_episodes(request.episodes_file), request.candidates)  # type: ignore[arg-type]


def _open(request: Request, fold: int) -> Dataset:
    """The dataset that was named, or that of the training."""
    name, root, options = request.dataset, request.root, dict[str, Any]()
    checkpoint = request.checkpoint_of(fold) if name is None else None
    if checkpoint is not None:
        trained: dict[str, Any] = checkpoint.value("dataset", default={})
        name, options = trained.get("name"), trained.get("options") or {}
        root = root or (Path(trained["root"]) if trained.get("root") else None)
    if name is None:
        raise UsageError("Say what to evaluate on, as in --dataset scenes.")
    dataset = open_dataset(name, root, **(options | _parsed(request.options)))
    if name == "scenes":
        from piclip.training.kept_dataset import KeptDataset

        return KeptDataset(dataset)
    return dataset


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    """``key=value`` with a value in JSON, or else a text as it stands."""
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise UsageError(f"An option of the dataset is written KEY=VALUE, not {option!r}.")
        try:
            parsed[key] = parse_json(value)
        except ValueError:
            parsed[key] = value
    return parsed


def load_training_free(request: Request, view: FewShotView) -> TrainingFree:
    """The segmenter, or its priors at a threshold that base classes chose."""
    model = request.model or ("builtin" if view.dataset.name == "scenes" else DEFAULT_MODEL)
    segmenter = FewShotSegmenter.from_pretrained(
        model, device=request.device, dtype=request.dtype or "auto"
    )
    wordings, threshold = view.dataset.synonyms, request.threshold
    if request.prior is not None and threshold is None:
        base = FewShotView(
            view.dataset,
            fold=view.fold,
            split="train",
            classes="base",
            novel_pixels="background",
            minimum_images=request.shot + 1,
        )
        undecided = TrainingFree(segmenter, prior=request.prior, wordings=wordings)
        threshold = choose_threshold(undecided, base, shots=request.shot)
    return TrainingFree(segmenter, prior=request.prior, threshold=threshold, wordings=wordings)


def _refuse_a_leak(checkpoint: Checkpoint, view: FewShotView) -> None:
    trained_on, fold = checkpoint.value("dataset", "name"), checkpoint.value("fold")
    if trained_on == view.dataset.name and fold is not None and fold != view.fold:
        raise UsageError(
            f"{checkpoint.folder} was trained for fold {fold}, so it has seen the novel classes "
            f"of fold {view.fold}; evaluate fold {fold}, or name the runs of all folds with "
            f"{{fold}} in the path."
        )
