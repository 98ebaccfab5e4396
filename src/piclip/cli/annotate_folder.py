"""The parts of ``piclip annotate``: what it refuses, writes and tells people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import ProgressColumn, Task
from rich.text import Text

from piclip import FewShotSegmenter
from piclip.annotation.export import Review, check_destination, write_files, write_review
from piclip.annotation.fitted import choose_negatives
from piclip.annotation.holdout import Expectation
from piclip.annotation.journal import Journal, stamp_of
from piclip.annotation.proposals import Failure, Query, propose
from piclip.cli.console import print_table, progress_bar
from piclip.errors import ImageError, PiclipError, UsageError
from piclip.formats import LabelledFile, Labels
from piclip.training_free.scorer import TrainingFreeScorer


def journal_path(output: Path) -> Path:
    """Where the finished images of an output are kept: beside it."""
    return output.with_name(output.name + ".journal")


def check_output(
    output: Path,
    format: str,
    queries: Sequence[Query],
    shown: Sequence[LabelledFile],
    *,
    others: Sequence[Path],
    overwrite: bool,
) -> None:
    """Refuse an output that does not do, before a model is loaded.

    Args:
        output: The file or folder.
        format: A name of `piclip.formats.FORMATS`.
        queries: The images without a label.
        shown: Labelled images that go into the output, too.
        others: The other files of the command line, which may not be written over.
        overwrite: Whether what is there may be replaced.

    Raises:
        UsageError: There is nothing to propose, the output does not fit the format or the images,
            or something is there that no earlier run has made.
    """
    if not queries:
        raise UsageError(
            "Every image is labelled, so that there is nothing to propose; add images to the "
            "folder of --images, or leave --output out to measure with --holdout."
        )
    files = [output, journal_path(output), *others]
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError(
            "The --labels, the --output and the --review must be different files; choose another "
            "--output."
        )
    paths = [query.path for query in queries] + [file.path for file in shown]
    check_destination(output, format, paths, [query.file for query in queries])
    foreign = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if foreign and not journal_path(output).exists() and not overwrite:
        raise UsageError(
            f"{output} is there already and no run of piclip annotate has made it; choose another "
            f"--output, or add --overwrite."
        )


def negatives_for(segmenter: FewShotSegmenter, labels: Labels) -> dict[str, list[LabelledFile]]:
    """The images labelled as without a class, by its name; a trained decoder has no use for any."""
    if not isinstance(segmenter.scorer, TrainingFreeScorer):
        return {}
    return choose_negatives(labels)


def is_done(journal: Journal, query: Query) -> bool:
    """Whether this very image is finished; one that vanished is not."""
    try:
        return journal.has(query.path, stamp_of(query.file))
    except ImageError:
        return False


def propose_for(
    segmenter: FewShotSegmenter,
    journal: Journal,
    queries: Sequence[Query],
    waiting: Sequence[Query],
    *,
    threshold: float | None,
    min_presence: float,
    batch_size: int,
    max_pixels: int,
) -> list[Failure]:
    """Propose regions for the images that wait; gives back which of all queries failed.

    Raises:
        PiclipError: The journal cannot be written, or Ctrl-C was pressed; what was finished stays.
    """
    earlier = len(queries) - len(waiting)
    try:
        with progress_with_rate("Annotating", len(queries), earlier) as on_progress:
            failures = propose(
                segmenter,
                waiting,
                journal,
                threshold=threshold,
                min_presence=min_presence,
                batch_size=batch_size,
                max_pixels=max_pixels,
                on_progress=on_progress,
            )
    except KeyboardInterrupt as error:
        done = sum(is_done(journal, query) for query in queries)
        raise PiclipError(
            f"Stopped with {done} of {len(queries)} images done; run the same command again to go "
            f"on."
        ) from error
    told = {failure.path for failure in failures}
    return failures + [
        Failure(query.path, f"{query.file}: the image vanished or changed meanwhile; try it again.")
        for query in queries
        if query.path not in told and not is_done(journal, query)
    ]


def write_proposals(
    journal: Journal,
    queries: Sequence[Query],
    labels: Labels,
    output: Path,
    format: str,
    *,
    shown: Sequence[LabelledFile],
    min_score: float,
    review: Path | None,
) -> dict[str, int]:
    """Write the finished ``queries``, after the labelled images ``shown``, and the review table.

    Returns:
        The number of proposed regions by class.
    """

    def proposed() -> Iterator[tuple[LabelledFile, float]]:
        for query in queries:
            proposal = journal.read(query.path)
            kept = tuple(r for r in proposal.file.regions if (r.score or 0) >= min_score)
            yield replace(proposal.file, regions=kept), proposal.certainty

    def files() -> Iterator[LabelledFile]:
        yield from shown
        yield from (file for file, _ in proposed())

    counts = Counter(dict.fromkeys(labels.class_names, 0))
    reviews = []
    for file, certainty in proposed():
        scores = [region.score for region in file.regions if region.score is not None]
        counts.update(region.class_name for region in file.regions)
        lowest = min(scores, default=None)
        reviews.append(Review(file.path, certainty, len(scores), lowest, file.presence))
    if review is not None:
        write_review(reviews, review)
    write_files(files, labels, output, format)
    return dict(counts)


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


def expectation_json(found: Expectation) -> dict[str, Any]:
    """What is to be expected of a class, as plain data; IoU in percent."""
    return {
        "class": found.class_name,
        "labelled": found.labelled,
        "iou": None if found.iou is None else round(100 * found.iou, 2),
        "images": {path: round(100 * iou, 2) for path, iou in found.ious.items()},
    }


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
