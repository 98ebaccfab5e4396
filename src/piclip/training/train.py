"""Training from a recipe: the base learner, then the decoder on episodes, into one run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import piclip
from piclip.clip.cache import FeatureCache
from piclip.clip.encoder import Encoder
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.dataset import Dataset, Split
from piclip.datasets.few_shot import Classes, FewShotView
from piclip.decoders.base import FewShotDecoder
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.networks import build_decoder, decoder_class
from piclip.decoders.pspnet import PSPNet
from piclip.errors import UsageError
from piclip.io.extras import needs_extra
from piclip.io.outputs import write_json
from piclip.training.base_learner import base_phase, build_learner, load_imagenet
from piclip.training.episodic import episodic_phase
from piclip.training.loop import (
    DECODER_WEIGHTS,
    Accelerator,
    Phase,
    Progress,
    run_phase,
    seed_everything,
)
from piclip.training.recipe import BaseLearnerRecipe, DatasetRecipe, Recipe, load_recipe
from piclip.training.run_folder import RunFolder, whole_folder

Report = Callable[[Progress], None]

_PRECISION = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}


def train(
    recipe: Recipe,
    folder: str | Path,
    report: Report | None = None,
    *,
    encoder: Encoder | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """Trains a decoder, or continues where the folder's last checkpoint stopped.

    Args:
        recipe: What to train.
        folder: The run folder: ``recipe.yaml``, ``checkpoint.pt``, ``log/`` (TensorBoard),
            ``base/`` (the base learner) and ``decoder/`` (the result).
        report: Told after every step.
        encoder: The CLIP of the priors; by default the one that the recipe names.
        dataset: The images of the recipe where they have been opened already.

    Returns:
        ``decoder/`` in the folder, which `piclip.decoders.networks.load_decoder` reads; its
        ``training.json`` says what it was trained and selected on.

    Raises:
        UsageError: The recipe does not fit the folder, the dataset or the decoder.
        DatasetError: The dataset is incomplete.
        ModelError: A checkpoint or the CLIP cannot be read.
        OutputError: A file cannot be written; the last checkpoint is kept.
    """
    accelerator, run = _start(recipe, folder)
    if run.decoder.is_dir():
        return run.decoder
    if dataset is None:
        dataset = _open_dataset(recipe.dataset)
    view = _view(recipe, dataset, "train", "base")
    view.check_shots(recipe.shot)  # before a base learner is trained for hours
    decoder = _build_decoder(recipe, view)
    if recipe.base is not None:
        if recipe.base.folder is None:  # sizes that do not fit are told before hours are spent
            decoder.load_base_learner(build_learner(recipe, view))
        learner = _base_learner(recipe, recipe.base, view, run, accelerator, report)
        decoder.load_base_learner(learner)
    maker = None
    if recipe.prior == "piclip":
        clip, device = recipe.clip, accelerator.device
        maker = PriorMaker(
            encoder or Encoder.from_pretrained(clip.model, device=device, dtype=clip.dtype),
            dataset.synonyms,
            text=clip.text,
            visual=clip.visual,
            cache=None if clip.cache is None else FeatureCache(clip.cache),
        )
    judged = None
    if recipe.select != "last":
        classes: Classes = "novel" if recipe.select == "novel-val" else "base"
        judged = _view(recipe, dataset, "val", classes)
    phase = episodic_phase(decoder, view, recipe, maker, judged)
    run_phase(phase, recipe, run, accelerator, report)
    if accelerator.is_main_process:
        _export(recipe, run, phase)
    accelerator.wait_for_everyone()
    return run.decoder


def train_base_learner(recipe: Recipe, folder: str | Path, report: Report | None = None) -> Path:
    """Trains only the recipe's base learner; others name its folder as ``base.folder``.

    It is ``base/`` in the run folder. Errors are those of `train`, and a recipe without a base
    learner.
    """
    if recipe.base is None:
        raise UsageError("The recipe has no base learner; add the key 'base'.")
    accelerator, run = _start(recipe, folder)
    view = _view(recipe, _open_dataset(recipe.dataset), "train", "base")
    _base_learner(recipe, recipe.base, view, run, accelerator, report)
    return run.base


def _start(recipe: Recipe, folder: str | Path) -> tuple[Accelerator, RunFolder]:
    with needs_extra("train", "Training"):
        import accelerate  # noqa: PLC0415
        import tensorboard  # noqa: F401, PLC0415 - accelerate needs it later

    accelerator = accelerate.Accelerator(
        cpu=recipe.device == "cpu",
        mixed_precision=_PRECISION[recipe.precision],
        # Not every parameter takes part in every episode (shot weights need two supports).
        kwargs_handlers=[accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    run = RunFolder(folder)
    if accelerator.is_main_process:
        run.open(recipe)
    accelerator.wait_for_everyone()
    return accelerator, run


def _open_dataset(settings: DatasetRecipe) -> Dataset:
    dataset = open_dataset(settings.name, settings.root, **settings.options)
    if settings.keep:
        dataset.keep_in_memory()
    return dataset


def _view(recipe: Recipe, dataset: Dataset, split: Split, classes: Classes) -> FewShotView:
    return FewShotView(
        dataset,
        fold=recipe.fold,
        split=split,
        classes=classes,
        novel_pixels=recipe.novel_pixels,
        minimum_pixels=recipe.minimum_pixels,
        minimum_images=recipe.minimum_images,
    )


def _base_learner(
    recipe: Recipe,
    settings: BaseLearnerRecipe,
    view: FewShotView,
    run: RunFolder,
    accelerator: Accelerator,
    report: Report | None,
) -> PSPNet:
    """The trained base learner: read where there is one, or else trained now."""
    ready = settings.folder or run.base
    if settings.folder is None and not run.base.is_dir():
        learner = build_learner(recipe, view)
        phase = base_phase(learner, view, recipe, settings)
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(phase.objective)
        run_phase(phase, recipe, run, accelerator, report)
        if accelerator.is_main_process:
            with whole_folder(run.base) as path:
                _save(learner, path)
        accelerator.wait_for_everyone()
    if not ready.is_dir():
        raise UsageError(f"base.folder: there is no folder {ready}; name the base/ of a run.")
    beside = RunFolder(ready.parent).recipe
    learned = load_recipe(beside) if beside.is_file() else recipe
    there, here = ((r.dataset.name, r.fold) for r in (learned, recipe))
    if there != here:
        raise UsageError(
            f"base.folder: {ready} was trained on {there[0]}, fold {there[1]}, and may have seen "
            f"novel classes of {here[0]}, fold {here[1]}; name the base learner of that fold."
        )
    loaded: PSPNet = PSPNet.from_pretrained(ready)
    return loaded


def _save(network: Any, folder: Path) -> None:  # noqa: ANN401 - the hub's mixin has no types
    network.cpu().eval().save_pretrained(folder)


def _build_decoder(recipe: Recipe, view: FewShotView) -> FewShotDecoder:
    options: dict[str, Any] = {
        "backbone": recipe.decoder.backbone,
        "backbone_options": recipe.decoder.backbone_options,
        "prior": recipe.prior,
        **recipe.decoder.options,
    }
    if decoder_class(recipe.decoder.name).knows_base_classes:
        if recipe.base is None:
            raise UsageError(
                f"The decoder {recipe.decoder.name} needs a base learner; add the key 'base' to "
                f"the recipe."
            )
        options["base_classes"] = len(view.base_classes)
    seed_everything(DECODER_WEIGHTS, recipe.seed)
    decoder = build_decoder(recipe.decoder.name, **options)
    if recipe.base is None:
        load_imagenet(decoder.backbone, recipe)
    return decoder


def _export(recipe: Recipe, run: RunFolder, phase: Phase) -> None:
    """Writes the selected weights as ``decoder/``, with how they came about."""
    chosen: dict[str, Any] = {"step": phase.steps, "score": None}
    scores: dict[int, float] = {}
    if recipe.select != "last":
        chosen, last = run.load_best(), run.load()
        scores = {} if last is None else last["scores"]
        phase.network.load_state_dict(chosen["network"])
    selected_on = {
        "last": "nothing: the last step",
        "base-val": "base classes of the validation images",
        "novel-val": "novel classes",
    }
    with whole_folder(run.decoder) as path:
        _save(phase.network, path)
        weights = (path / "model.safetensors").read_bytes()
        record = {
            "format": 1,
            "method": recipe.decoder.name,
            "recipe": recipe.to_json(),
            "select": recipe.select,
            "selected_on": selected_on[recipe.select],
            "selected_on_novel_classes": recipe.select == "novel-val",
            "step": chosen["step"],
            "score": chosen["score"],
            "scores": scores,
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "versions": {"piclip": piclip.__version__, "torch": torch.__version__},
        }
        write_json(record, path / "training.json")
