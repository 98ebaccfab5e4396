"""What ``piclip annotate`` tells people: how far it is, what to expect, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import ProgressColumn, Task
from rich.text import Text

from piclip.annotation.holdout import Expectation
from piclip.annotation.proposals import Failure
from piclip.cli.console import people, print_some, print_table, progress_bar


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        expectations: What was measured, with --holdout.
        annotated: Number of images with proposals (or with nothing found), earlier runs included.
        earlier: How many of them are from earlier runs.
        regions: Number of regions written, by class.
        failures: Images that could not be annotated.
    """

    expectations: Sequence[Expectation]
    annotated: int
    earlier: int
    regions: dict[str, int]
    failures: Sequence[Failure]


def report(outcome: Outcome, output: Path | None) -> None:
    """Tell people how a run ended."""
    if output is None:
        return
    total = outcome.annotated + len(outcome.failures)
    if outcome.failures:
        people().print(f"{len(outcome.failures)} of {total} images failed:")
        print_some([failure.reason for failure in outcome.failures], "see --json")
    earlier = f" ({outcome.earlier} from an earlier run)" if outcome.earlier else ""
    people().print(
        f"{outcome.annotated} of {total} images annotated{earlier}, "
        f"{sum(outcome.regions.values())} regions; see {output}"
    )


def as_json(outcome: Outcome, output: Path | None) -> dict[str, Any]:
    """The same as plain data; IoU in percent."""
    return {
        "output": None if output is None else str(output),
        "annotated": outcome.annotated,
        "earlier": outcome.earlier,
        "regions": outcome.regions,
        "failed": [{"image": f.path, "reason": f.reason} for f in outcome.failures],
        "holdout": [
            {
                "class": e.class_name,
                "labelled": e.labelled,
                "iou": None if e.iou is None else round(100 * e.iou, 2),
                "images": {path: round(100 * iou, 2) for path, iou in e.ious.items()},
            }
            for e in outcome.expectations
        ],
    }


def print_expectations(expectations: Sequence[Expectation]) -> None:
    """Print which IoU to expect of each class."""
    rows = []
    for found in expectations:
        worst = min(found.ious, key=lambda path: found.ious[path], default=None)
        rows.append(
            (
                found.class_name,
                str(found.labelled),
                str(len(found.ious)),
                _percent(found.iou) if found.labelled > 1 else "label 2 images",
                "" if worst is None else f"{_percent(found.ious[worst])} ({worst})",
            )
        )
    columns = ("class", "labelled", "held out", "IoU to expect", "worst image")
    print_table("Measured on labelled images, each held out", columns, rows)


def _percent(iou: float | None) -> str:
    return "-" if iou is None else f"{100 * iou:.1f} %"


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
