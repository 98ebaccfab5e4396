"""``piclip table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def table(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...")],
    *,
    style: Annotated[str, typer.Option(metavar="NAME")] = "main",
    form: Annotated[str, typer.Option("--format", metavar="NAME")] = "markdown",
) -> None:
    """Print the paper's tables from results of evaluations.

    Rows are methods and priors; columns are folds, their mean and the FB-IoU for each number of
    shots, in percent with the 95 % interval over the seeds. What is missing is shown as "-".

    Options:
        results: Files of 'piclip evaluate --output', or folders of them.
        style: main, ablation (previous, VTP, VVP, PIR) or priors (their gain).
        form: markdown, latex or csv.

    Examples:
        piclip table results/*.json
        piclip table results/*.json --style priors --format latex
    """
    from piclip.evaluation.records import read_result
    from piclip.evaluation.tables import make_tables, render

    records = [(str(path), read_result(path)) for path in _files(results)]
    tables = make_tables(records, style)  # type: ignore[arg-type]  # refuses other styles
    print("\n".join(render(one, form) for one in tables), end="")


def _files(paths: list[Path]) -> list[Path]:
    """The files, and the JSON files of folders."""
    from piclip.errors import UsageError

    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"The folder {path} holds no result; give files or another folder.")
        files += inside
    return files
