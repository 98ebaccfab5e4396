"""The experiments from the command line: ``python -m world.run_experiments``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piclip.cli.console import people, progress_bar

if TYPE_CHECKING:
    from rich.progress import TaskID


def experiments(
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of the result files.")
    ] = Path("benchmarks/results"),
    runs: Annotated[
        Path, typer.Option("--runs", metavar="DIR", help="Folder of the trainings.")
    ] = Path("runs/experiments"),
    recipes: Annotated[
        Path, typer.Option("--recipes", metavar="DIR", help="Recipes of the built-in world.")
    ] = Path("recipes/scenes"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One fold, short trainings: minutes, rough figures.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Trainings at once. [default: cores]"),
    ] = None,
) -> None:
    """Train and evaluate every decoder with the previous prior and with ours, on built-in scenes.

    What is there already is not repeated, so a run that was stopped goes on. Print the results
    with piclip table.
    """
    from world.experiments import QUICK, Experiments, Part, Plan, Report

    job = Experiments(QUICK if quick else Plan(), recipes, runs, output)
    parts = [part for phase in job.phases() for part in phase]
    with progress_bar() as bars:
        steps = sum(len(list(job.steps(part))) for part in parts)
        whole = bars.add_task("Experiments", total=steps)
        current: dict[Part, TaskID] = {}

        def show(report: Report) -> None:
            if report.part not in current:
                current[report.part] = bars.add_task("", total=None)
            bar = current[report.part]
            total = report.total or None
            bars.update(bar, description=report.title, completed=report.done, total=total)
            bars.update(bar, visible=not report.finished)
            bars.advance(whole, int(report.finished))

        job.run(min(workers or os.cpu_count() or 1, len(parts)), show)
    people().print(f"{len(job.result_files())} results are in {output}")


if __name__ == "__main__":
    typer.run(experiments)
