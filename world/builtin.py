"""Trains the built-in CLIP from captions alone: ``python -m world.builtin RUN_FOLDER``.

Seeded and resumable: the same command continues where the run folder's last checkpoint stopped.
What a class looks like is learned from captions (which classes an image, or a cell of a mosaic of
images, shows); masks are never read. ``world/training_log.md`` says what came out.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from piclip.clip.settings import SETTINGS_FILE
from piclip.io.outputs import atomic_path, write_json
from world.captioned_batches import CURRICULUM, PARTS, Batch, Batches
from world.losses import training_loss
from world.progress import progress
from world.world_model import (
    ATTENTION_BLOCKS,
    IMAGE_SIZE,
    build_model,
    build_tokenizer,
)

SEED = 0
MATRIX_RATE, OTHER_RATE = 0.02, 1e-3
WARM_UP, DECAY_FROM = 50, 0.4
EMA = 0.998
CHECKPOINT_EVERY = 50
LOG_EVERY, EVALUATE_EVERY = 10, 500


def rate_factor(step: int, total: int) -> float:
    """Learning rate as a share of the full one: warm-up, constant, linear decay to 2 %."""
    decay = (total - step) / (total * (1 - DECAY_FROM))
    return max(0.02, min(1.0, (step + 1) / WARM_UP, decay))


class Run:
    """The state of a training run and its folder."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, torch.device(device)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = build_tokenizer()
        self.model = build_model(self.tokenizer, SEED).to(self.device).train()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        matrices = [
            p for name, p in self.model.named_parameters() if p.ndim == 2 and ".layers." in name
        ]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01),
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.others = others
        self.rates = (MATRIX_RATE, OTHER_RATE)
        self.step = 0
        self.total = sum(stage.steps for stage in CURRICULUM)
        if self.checkpoint.exists():
            self._load()

    @property
    def checkpoint(self) -> Path:
        """The file that a continued run starts from."""
        return self.folder / "checkpoint.pt"

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_path(self.checkpoint) as path:
            torch.save(state, path)

    def update(self, parts: list[Batch]) -> dict[str, float]:
        """One optimizer step on the parts that are this process's own."""
        factor = rate_factor(self.step, self.total)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        for batch in parts:
            rng = random.Random(self.step)
            loss, said = training_loss(self.model, self.tokenizer, batch, rng)
            (loss / PARTS).backward()
        self._add_up()
        nn.utils.clip_grad_norm_(self.others, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        keep = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        self.step += 1
        return {"loss": float(loss.detach()), **said, "scale": self.model.logit_scale.exp().item()}

    def _add_up(self) -> None:
        """Adds the gradients of all processes."""
        if not dist.is_initialized():
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, total in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(total.view_as(gradient))


def train(folder: Path, device: str, stop_after: float | None = None, workers: int = 1) -> None:
    """Trains until the curriculum's end, or for ``stop_after`` seconds.

    ``log.jsonl`` gets the parts of the loss every few steps and, more rarely, what the averaged
    model reaches on calibration episodes.

    Args:
        folder: run folder.
        device: torch device.
        stop_after: seconds.
        workers: processes among which the parts of each step are shared out; their number changes
            nothing but the order of sums.
    """
    if workers == 1:
        _train(0, 1, None, folder, device, stop_after)
        return
    with (
        tempfile.TemporaryDirectory() as place,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        meet = Path(place) / "meet"
        for ended in [
            pool.submit(_train, rank, workers, meet, folder, device, stop_after)
            for rank in range(workers)
        ]:
            ended.result()


def _train(
    rank: int,
    workers: int,
    meet: Path | None,
    folder: Path,
    device: str,
    stop_after: float | None,
) -> None:
    """What one of the processes does; the first one writes."""
    if meet is not None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=workers)
    run = Run(folder, device)
    began = time.monotonic()
    for parts in _batches(run, range(rank, PARTS, workers)):
        said = run.update(parts)
        elapsed = time.monotonic() - began
        stopping = _agreed(stop_after is not None and elapsed > stop_after)
        if rank == 0:
            _write_down(run, elapsed, said)
            if run.step % CHECKPOINT_EVERY == 0 or run.step == run.total or stopping:
                run.save()
        if stopping:
            break
    if meet is not None:
        dist.destroy_process_group()


def _batches(run: Run, parts: range) -> Iterator[list[Batch]]:
    """The parts of each step that is left, drawn ahead."""
    loaders = [
        torch.utils.data.DataLoader(
            Batches(SEED, part, run.step), batch_size=None, num_workers=1, prefetch_factor=32
        )
        for part in parts
    ]
    for batches in zip(*loaders, strict=True):
        yield [
            replace(b, images=b.images.to(run.device), words=b.words.to(run.device))
            for b in batches
        ]


def _agreed(stopping: bool) -> bool:
    """Whether any process wants to stop: all stop after the same step."""
    if not dist.is_initialized():
        return stopping
    wish = torch.tensor([float(stopping)])
    dist.all_reduce(wish)
    return bool(wish.item())


def _write_down(run: Run, elapsed: float, parts: dict[str, float]) -> None:
    """Adds a line to the log, if there is something to say of this step."""
    said: dict[str, float] = {}
    if run.step % LOG_EVERY == 0:
        said |= {name: round(value, 4) for name, value in parts.items()}
    if run.step % EVALUATE_EVERY == 0 or run.step == run.total:
        said |= progress(run.average, run.tokenizer)
    if said:
        with (run.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": run.step, "s": round(elapsed, 1), **said}) + "\n")


def export(run: Run, folder: Path) -> None:
    """Writes the averaged model in float16, its tokenizer and its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(run.average).half().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)  # one that carries no padding of the last batch
    settings = {"image_size": IMAGE_SIZE, "attention_blocks": ATTENTION_BLOCKS}
    write_json(settings, folder / SETTINGS_FILE)


def main() -> None:
    """The command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder: checkpoint, log, exported model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stop-after", type=float, help="seconds after which to pause")
    options = parser.parse_args()
    workers = PARTS if options.device == "cpu" else 1
    train(options.folder, options.device, options.stop_after, workers)
    export(Run(options.folder, "cpu"), options.folder / "model")


if __name__ == "__main__":
    main()
