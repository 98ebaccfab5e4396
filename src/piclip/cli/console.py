"""What commands print: for people on stderr, data on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from piclip.errors import OutputError, PiclipError, UsageError

if TYPE_CHECKING:
    from piclip import FewShotSegmenter
    from piclip.annotation.jobs import Job
    from piclip.io import outputs

_LISTED = 20
_OPTIONS = {
    "leave clip": "leave --clip",
    "leave visual": "leave --visual",
    "beside visual": "beside --visual",
    "and evidence out": "and --evidence out",
    "evidence='contrast'": "--evidence contrast",
}


def people() -> Console:
    """The console for people: stderr, with texts printed as they are (no markup)."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print data on stdout; file names of any alphabet stay printable in any locale."""
    print(json.dumps(value, indent=2, allow_nan=False), flush=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people, with all columns but the first flush right."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    people().print(table)


def print_some(lines: Sequence[str], where: str) -> None:
    """Print the first lines of a list for people, and ``where`` the others are."""
    for line in lines[:_LISTED]:
        people().print(f"  {line}")
    if len(lines) > _LISTED:
        people().print(f"  ... and {len(lines) - _LISTED} more, {where}")


def print_outcome(
    what: str,
    *,
    done: int,
    earlier: int,
    failures: Sequence[str],
    where: str,
    output: str | Path,
    more: str = "",
    failed: int | None = None,
) -> None:
    """Print how many images are done, for people, and which ones failed.

    Done are also those of ``earlier`` runs. There is one reason for each failure, unless more of
    them ``failed``; all of the reasons are ``where`` it says, results in ``output``.
    """
    failed = len(failures) if failed is None else failed
    total = done + failed
    if failures:
        people().print(f"{failed} of {total} images failed:")
        print_some(failures, where)
    again = f" ({earlier} from an earlier run)" if earlier else ""
    people().print(f"{done} of {total} images {what}{again}{more}; see {output}")


@contextmanager
def loading_model() -> Iterator[None]:
    """Say that the model is being loaded; errors name options instead of Python's arguments."""
    with people().status("Loading the model"):
        try:
            yield
        except UsageError as error:
            said = str(error)
            for argument, option in _OPTIONS.items():
                said = said.replace(argument, option)
            raise UsageError(said) from error


def load_model(name_or_folder: str, **options: Any) -> FewShotSegmenter:  # noqa: ANN401
    """The segmenter with nothing learned, as `FewShotSegmenter.from_pretrained`."""
    from piclip import FewShotSegmenter

    with loading_model():
        return FewShotSegmenter.from_pretrained(name_or_folder, **options)


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} images/s")


@contextmanager
def progress_with_rate(what: str, total: int, earlier: int = 0) -> Iterator[Callable[[int], None]]:
    """A progress bar with images per second and the time that is left; yields how to move it."""
    with progress_bar(_Rate()) as bar:
        task = bar.add_task(what, total=total, completed=earlier)
        yield lambda tried: bar.update(task, completed=earlier + tried)


@contextmanager
def running(what: str, job: Job) -> Iterator[Callable[[int], None]]:
    """The progress bar of a job; Ctrl-C in the block says how far it is (PiclipError)."""
    total = len(job.queries)
    try:
        with progress_with_rate(what, total, job.earlier) as on_progress:
            yield on_progress
    except (KeyboardInterrupt, OutputError) as error:
        done = job.earlier + job.finished
        if isinstance(error, OutputError):
            raise OutputError(f"{error} {done} finished images are kept.") from error
        raise stopped(done, total) from error


def stopped(done: int, total: int) -> PiclipError:
    """What Ctrl-C ends a job of many images with."""
    return PiclipError(
        f"Stopped with {done} of {total} images done; run the same command again to go on."
    )


@contextmanager
def resuming(kept: str) -> Iterator[None]:
    """Ctrl-C in the block says that the same command goes on, and with what (PiclipError)."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise PiclipError(f"Stopped; run the same command again to go on: {kept}.") from error


@contextmanager
def writing(output: str | Path) -> Iterator[None]:
    """Say that labels are being written; Ctrl-C in the block says how to go on (PiclipError)."""
    status = people().status(Text(f"Writing {output}"))  # a str would be read as markup
    with status, resuming("what was found is kept"):
        yield


@contextmanager
def progress_lines(*labels: str) -> Iterator[list[outputs.Progress]]:
    """A progress bar with a line for each label; yields how to move each."""
    with progress_bar() as bar:

        def line(label: str) -> outputs.Progress:
            task = bar.add_task(label, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield [line(label) for label in labels]


def progress_bar(*more: ProgressColumn) -> Progress:
    """A progress bar on stderr with the time that is left, and further columns before that."""
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), *more, TimeRemainingColumn())
    return Progress(*columns, console=people())
