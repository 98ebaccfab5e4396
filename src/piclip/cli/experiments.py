"""``piclip benchmark experiments``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import examples
from piclip.extras import needs_extra

EXAMPLES = examples(
    "piclip benchmark experiments --output docs/results",
    "piclip benchmark experiments --quick --output results-quick --runs runs/quick",
)


def experiments(
    *,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of the result files.")
    ] = Path("docs/results"),
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
        typer.Option(min=1, metavar="N", help="Folds at a time. [default: cores]"),
    ] = None,
) -> None:
    """Train and evaluate every decoder with the previous prior and with ours, on built-in scenes.

    What is there already is not repeated, so a run that was stopped goes on. Print the results
    with piclip table.
    """
    from piclip.cli.console import people, progress_bar

    with needs_extra("train", "Running experiments"):
        from piclip.benchmarks.experiments import QUICK, Experiments, Plan, Report
    job = Experiments(QUICK if quick else Plan(), recipes, runs, output)
    folds = job.plan.folds
    with progress_bar() as bars:
        whole = bars.add_task("Experiments", total=len(list(job.all_steps())))
        current = {fold: bars.add_task(f"fold {fold}", total=None) for fold in folds}

        def show(report: Report) -> None:
            if report.finished:
                bars.advance(whole)
            bars.update(
                current[report.fold],
                description=report.title,
                completed=report.done,
                total=report.total or None,
            )

        job.run(min(workers or os.cpu_count() or 1, len(folds)), show)
    people().print(f"{len(job.result_files())} results are in {output}")
