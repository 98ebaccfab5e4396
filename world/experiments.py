"""The paper's comparison on the built-in world: ``python -m world.experiments``.

Trains one base learner per fold, every decoder on it with every prior, and evaluates each on the
novel classes of the fold, all by ``piclip train`` and ``piclip evaluate``; what is there already
is not repeated. Parts do not depend on each other, so they share out the cores.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from piclip.cli import main as piclip
from piclip.errors import PiclipError
from piclip.evaluation.evaluate import worker_pool
from piclip.evaluation.records import read_result

MAIN = {prior: (f"prior={prior}",) for prior in ("imagenet", "piclip")}
"""The priors of the main table, as changes to the recipe."""
ABLATION = {
    "vtp": ("prior=piclip", "clip.text=plain", "clip.visual=none"),
    "vtp+pir": ("prior=piclip", "clip.text=refined", "clip.visual=none"),
    "vvp": ("prior=piclip", "clip.text=none", "clip.visual=plain"),
    "vtp+vvp": ("prior=piclip", "clip.text=plain", "clip.visual=plain"),
    "none": ("prior=none",),
}
"""The rows of the ablation that are not in the main table."""

Step: TypeAlias = Callable[[], None]
"""A training or an evaluation; other processes can be sent it. It raises a PiclipError."""
Part: TypeAlias = list[tuple[Path, Step]]
"""What is done one after the other: what shows that a step is done, and the step."""


class Experiment(Protocol):
    """What is trained and evaluated."""

    @property
    def results(self) -> Path:
        """Folder of the result files."""
        ...

    @property
    def runs(self) -> Path:
        """Folder of the trainings, and of the log."""
        ...

    def phases(self) -> Sequence[list[Part]]:
        """Phase after phase; the parts of one in any order."""
        ...

    def is_done(self, shown: Path) -> bool:
        """Whether what shows that a step is done does so."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is trained and how much is asked.

    Attributes:
        results: Folder of the result files.
        runs: Folder of the trainings.
        folds: Which folds are held out in turn.
        decoders: Which decoders, by the names of their recipes.
        ablated: The decoder that the ablation is made with; None leaves the ablation out.
        shots: Numbers of supports in the evaluation, of the ablation the first alone; training is
            with one.
        seeds: Independent draws of the test episodes.
        episodes: Test episodes of each seed.
        overrides: Changes to every recipe.
        recipes: Folder of the recipes.
    """

    results: Path
    runs: Path
    folds: tuple[int, ...] = (0, 1, 2, 3)
    decoders: tuple[str, ...] = ("pfenet", "bam", "hdmnet")
    ablated: str | None = "pfenet"
    shots: tuple[int, ...] = (1, 5)
    seeds: int = 5
    episodes: int = 60
    overrides: tuple[str, ...] = ("workers=0",)
    recipes: Path = Path("recipes/scenes")

    def phases(self) -> tuple[list[Part], list[Part]]:
        """The base learners, then all that is built on them; the parts of a phase in any order."""
        rows = [(decoder, prior) for decoder in self.decoders for prior in MAIN]
        ablation = [(self.ablated, prior) for prior in ABLATION if self.ablated is not None]
        learners = [[self._learner(fold)] for fold in self.folds]
        decoders = [self._decoder(fold, *row) for fold in self.folds for row in rows]
        decoders += [self._decoder(fold, *row) for row in ablation for fold in self.folds]
        without = [self._evaluations("training-free", fold, "training-free") for fold in self.folds]
        return learners, decoders + without

    def _learner(self, fold: int) -> tuple[Path, Step]:
        folder = self.runs / f"fold{fold}" / "base-learner"
        changes = [*self.overrides, f"fold={fold}"]
        return folder / "base", self._train(self.decoders[0], folder, "--base-only", *changes)

    def _decoder(self, fold: int, decoder: str, prior: str) -> Part:
        run = self.runs / f"fold{fold}" / f"{decoder}-{prior}"
        base = f"base.folder={self._learner(fold)[0]}"
        changes = [*self.overrides, f"fold={fold}", base, *(MAIN | ABLATION)[prior]]
        shots = self.shots if prior in MAIN else self.shots[:1]
        training = (run / "decoder", self._train(decoder, run, *changes))
        return [training, *self._evaluations(str(run), fold, run.name, shots)]

    def _train(self, decoder: str, run: Path, *changes: str) -> Step:
        recipe = self.recipes / f"{decoder}.yaml"
        return partial(cli, ["train", "--config", str(recipe), "--output", str(run), *changes])

    def _evaluations(
        self, checkpoint: str, fold: int, name: str, shots: tuple[int, ...] | None = None
    ) -> Part:
        amount = ["--seeds", str(self.seeds), "--episodes", str(self.episodes)]
        scenes = ["--dataset", "scenes", "--option", f"cache={self.runs / 'presence'}"]
        part: Part = []
        for shot in shots or self.shots:
            file = self.results / f"{name}-fold{fold}-{shot}shot.json"
            asked = ["--fold", str(fold), "--shot", str(shot), *amount, "--output", str(file)]
            part.append((file, partial(cli, ["evaluate", checkpoint, *scenes, *asked])))
        return part

    def is_done(self, shown: Path) -> bool:
        """Whether a folder is there, or a result file with all that is asked."""
        return is_done(shown, self.seeds, self.episodes)


def is_done(shown: Path, seeds: int, episodes: int) -> bool:
    """Whether a folder is there, or a result file with so many seeds and episodes."""
    if shown.suffix != ".json":
        return shown.is_dir()
    if not shown.exists():
        return False
    there = read_result(shown)
    return (len(there.seeds), there.episodes) == (seeds, episodes) and there.complete


def run(experiment: Experiment, processes: int) -> None:
    """Does all that is not done yet, each part in a process with one thread.

    Raises:
        PiclipError: A step failed; what is finished is kept.
    """
    experiment.results.mkdir(parents=True, exist_ok=True)
    for parts in experiment.phases():
        steps = [[s for shown, s in part if not experiment.is_done(shown)] for part in parts]
        with worker_pool(processes) as pool:
            jobs = [pool.submit(work, own, experiment.runs) for own in steps if own]
            for number, job in enumerate(as_completed(jobs), start=1):
                if failed := job.result():
                    pool.shutdown(cancel_futures=True)
                    raise PiclipError(f"{failed} See {experiment.runs / 'log'}.")
                print(f"{number} of {len(jobs)} parts done", file=sys.stderr)


def work(steps: Sequence[Step], runs: Path) -> str | None:
    """Takes steps one after the other; gives what is wrong with the one that failed."""
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / "log").open("a", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        for step in steps:
            try:
                step()
            except PiclipError as error:
                print(error)
                return str(error)
    return None


def cli(words: list[str]) -> None:
    """Runs a command of piclip.

    Raises:
        PiclipError: It failed; it has said why.
    """
    print(f"\npiclip {shlex.join(words)}")
    sys.argv = ["piclip", *words]  # for the record
    if piclip(words):
        raise PiclipError(f"`piclip {shlex.join(words)}` failed.")


def main() -> int:
    """The command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--quick", action="store_true", help="one fold, short trainings: minutes")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings at once")
    options = parser.parse_args()
    plan = Plan(options.output, options.runs)
    if options.quick:  # the same path; its figures say little
        plan = Plan(
            options.output,
            options.runs,
            folds=(0,),
            ablated=None,
            seeds=2,
            episodes=40,
            overrides=(
                "workers=0",
                "base.steps=100",
                "episodic.steps=200",  # by fewer, PFENet and BAM mark nothing yet
                "episodic.batch=3",
                "episodic.optimizer.lr=2.0e-3",
                "dataset.options.train_images=400",
            ),
        )
    try:
        run(plan, options.workers)
    except PiclipError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
