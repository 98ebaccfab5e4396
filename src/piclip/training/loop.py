"""The training loop: a straight line from step to step, the same for both networks.

Everything that happens in step t is a function of (recipe, weights after step t - 1, t): the data,
the learning rate and the random numbers. So a checkpoint needs no random state, and a resumed
training repeats an uninterrupted one bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from piclip.errors import UsageError
from piclip.io.images import IGNORE
from piclip.training.recipe import OptimizerRecipe, PhaseRecipe, Recipe
from piclip.training.run_folder import RunFolder

Accelerator: TypeAlias = Any
"""accelerate's class of this name; the library has no types and is an extra."""

BASE_WEIGHTS, DECODER_WEIGHTS, _STEPS = 1, 2, 3  # what random numbers are for


@dataclass(frozen=True)
class Progress:
    """How many steps of a phase are done, and the terms of the loss where they were logged."""

    phase: str
    step: int
    steps: int
    losses: dict[str, float]


@dataclass(frozen=True, eq=False)
class Phase:
    """What one of the two trainings, ``base`` or ``episodic``, consists of.

    Attributes:
        network: What is trained and kept.
        objective: Holds the network; maps ``inputs`` to terms of the loss with their sum
            ``loss``, a mean over the pixels of ``target`` that are not 255.
        groups: Parameter groups of the optimizer; ``factor`` multiplies the learning rate.
        dataset: Items by number; step t takes the numbers t * batch and on.
        inputs: A batch to the objective's arguments, on a device.
        validate: Score of the network, higher is better; None where nobody asks.
    """

    name: str
    network: nn.Module
    objective: nn.Module
    groups: list[dict[str, Any]]
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    inputs: Callable[[Any, torch.device], dict[str, Any]]
    settings: PhaseRecipe
    steps: int
    validate: Callable[[], float] | None = None


def run_phase(
    phase: Phase,
    recipe: Recipe,
    run: RunFolder,
    accelerator: Accelerator,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Trains a network, from its checkpoint in the run where there is one.

    Raises:
        UsageError: The batch cannot be shared out evenly among the processes, or the loss is no
            number any more.
        ModelError: The checkpoint is damaged.
        OutputError: A checkpoint cannot be written; the one before it is kept.
    """
    phase.network.to(accelerator.device)
    optimizer = build_optimizer(phase.groups, phase.settings.optimizer)
    start, scores = _restore(phase, optimizer, accelerator.scaler, run)
    model, prepared = accelerator.prepare(phase.objective, optimizer)
    batches = _batches(phase, recipe.workers, start, accelerator)
    log: Any = None
    if accelerator.is_main_process:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        log = SummaryWriter(str(run.log / phase.name), purge_step=start + 1)
    phase.network.train()
    for step, batch in enumerate(batches, start=start):
        set_rate(optimizer, phase.settings.optimizer.power, step, phase.steps)
        seed_everything(_STEPS, recipe.seed, step, accelerator.process_index)
        inputs = phase.inputs(batch, accelerator.device)
        share = _share_of_pixels(inputs["target"], accelerator)
        losses = {name: term * share for name, term in model(**inputs).items()}
        accelerator.backward(losses["loss"])
        prepared.step()
        prepared.zero_grad()

        done = step + 1
        last = done == phase.steps
        shown: dict[str, float] = {}
        if done % recipe.log_every == 0 or last:
            means = accelerator.reduce({k: v.detach() for k, v in losses.items()}, "mean")
            shown = {name: float(mean) for name, mean in means.items()}
            if not np.isfinite(shown["loss"]):
                raise UsageError(
                    f"The loss is no number after {done} steps ({phase.name}); begin again in "
                    f"another folder with a smaller optimizer.lr."
                )
            _write(log, shown, done)
        if phase.validate is not None and (done % recipe.validation.every == 0 or last):
            if accelerator.is_main_process:
                _judge(phase, run, done, scores, log)
            accelerator.wait_for_everyone()
            phase.network.train()
        if done % recipe.checkpoint_every == 0 or last:
            if accelerator.is_main_process:
                scaler = accelerator.scaler
                state = {
                    "phase": phase.name,
                    "step": done,
                    "scores": scores,
                    "network": phase.network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scaler": None if scaler is None else scaler.state_dict(),
                }
                run.save(state)
            accelerator.wait_for_everyone()
        if report is not None and accelerator.is_main_process:
            report(Progress(phase.name, done, phase.steps, shown))
    if log is not None:
        log.close()
    accelerator.free_memory()


def build_optimizer(
    groups: list[dict[str, Any]], settings: OptimizerRecipe
) -> torch.optim.Optimizer:
    """AdamW or SGD over parameter groups whose ``factor`` multiplies the learning rate."""
    scaled = []
    for group in groups:
        rate = settings.lr * group.get("factor", 1.0)
        scaled.append({"params": group["params"], "lr": rate, "full_rate": rate})
    if settings.name == "sgd":
        return torch.optim.SGD(
            scaled, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(scaled, lr=settings.lr, weight_decay=settings.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, power: float, step: int, steps: int) -> None:
    """The polynomial schedule: ``full rate * (1 - step / steps) ** power``."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * (1 - step / steps) ** power


def seed_everything(*key: int) -> None:
    """Seeds what networks draw (dropout, first weights) by numbers, first what they are for."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    torch.manual_seed(int(seed) >> 1)


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _batches(phase: Phase, workers: int, start: int, accelerator: Accelerator) -> DataLoader[Any]:
    batch, parts = phase.settings.batch, accelerator.num_processes
    if batch % parts:
        raise UsageError(
            f"A batch of {batch} cannot be shared out among {parts} processes; choose a multiple."
        )
    share = batch // parts
    firsts = range(start * batch + accelerator.process_index * share, phase.steps * batch, batch)
    return DataLoader(
        phase.dataset,
        batch_sampler=(list(range(first, first + share)) for first in firsts),
        num_workers=workers,
        collate_fn=phase.collate,
    )


def _share_of_pixels(target: Tensor, accelerator: Accelerator) -> Tensor:
    """This process' pixels over the mean of all processes'.

    Times it, the losses and gradients of the processes average to those of the whole batch.
    """
    own = (target != IGNORE).sum().float()
    if accelerator.num_processes == 1:
        return torch.ones_like(own)
    mean: Tensor = accelerator.reduce(own.clone(), "mean")
    return torch.where(mean > 0, own / mean, 1.0)


def _restore(
    phase: Phase,
    optimizer: torch.optim.Optimizer,
    scaler: Any,  # noqa: ANN401 - torch's for float16, or None
    run: RunFolder,
) -> tuple[int, dict[int, float]]:
    """Steps done, and the score of validation by step."""
    state = run.load()
    if state is None or state["phase"] != phase.name:
        return 0, {}
    phase.network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    return int(state["step"]), state["scores"]


def _judge(phase: Phase, run: RunFolder, step: int, scores: dict[int, float], log: Any) -> None:  # noqa: ANN401
    """Validates; keeps the weights if they are the best so far, the earlier ones of equals."""
    if phase.validate is None:
        return
    phase.network.eval()
    best = max(scores.values(), default=None)
    scores[step] = phase.validate()
    _write(log, {"validation": scores[step]}, step)
    if best is None or scores[step] > best:
        network = phase.network.state_dict()
        run.save_best({"step": step, "score": scores[step], "network": network})


def _write(log: Any, values: dict[str, float], step: int) -> None:  # noqa: ANN401
    if log is not None:
        for name, value in values.items():
            log.add_scalar(name, value, step)
