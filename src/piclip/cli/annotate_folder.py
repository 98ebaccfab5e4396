"""The parts of ``piclip annotate``: what it refuses, writes and tells people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from piclip import FewShotSegmenter
from piclip.annotation.export import Review, check_destination, write_files, write_review
from piclip.annotation.fitted import choose_negatives
from piclip.annotation.holdout import Expectation
from piclip.annotation.jobs import Job, journal_path
from piclip.annotation.queries import Queries
from piclip.annotation.sinks import Proposal
from piclip.cli.console import print_table
from piclip.errors import UsageError
from piclip.formats import LabelledFile, Labels
from piclip.formats.cleaning import Cleaning, kept
from piclip.formats.labels import label_paths
from piclip.training_free.scorer import TrainingFreeScorer


def check_wanted(output: Path | None, *, holdout: bool, review: Path | None) -> None:
    """Refuse a command line that asks for nothing, or for a part alone (UsageError)."""
    if output is None and not holdout:
        raise UsageError("There is nothing to do: give --output, --holdout or both.")
    if output is None and review is not None:
        raise UsageError("A --review needs an --output, too; give both.")


def check_output(
    output: Path,
    format: str,
    queries: Queries,
    shown: Sequence[LabelledFile],
    *,
    others: Sequence[Path | None],
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
    files = [output, journal_path(output), *(other for other in others if other)]
    beside = format == "labelme" and output.is_dir()  # of each image, or among the labels
    if beside:
        files.remove(output)
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError(
            "The --labels, the --output and the --review must be different files; choose another "
            "--output."
        )
    paths = [*queries.paths, *(file.path for file in shown)]
    check_destination(output, format, paths, (Path(query.file) for query in queries))
    if beside:
        labels = output.resolve() in {file.resolve() for file in files}
        if labels and shown:
            raise UsageError("The --output holds the labels already; leave out --with-labels.")
        known = {path for path in queries.paths if labels and path in queries.known}
        targets = label_paths((path for path in paths if path not in known), ".json")
        foreign = any((output / target).exists() for target in targets)
    else:
        foreign = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if foreign and not journal_path(output).exists() and not overwrite:
        raise UsageError(
            f"{output} is there already and no run of piclip annotate has made it; choose another "
            f"--output, or add --overwrite."
        )


def with_negatives(labels: Labels, images: Path, format: str) -> Labels:
    """Take images listed without a label as negatives (UsageError where the labels tell them)."""
    if format == "labelstudio":
        raise UsageError(
            "Label Studio tells tasks that were submitted empty from those without a label; leave "
            "out --empty-as-negatives."
        )
    return labels.with_empty_as_negatives(images)


def negatives_for(segmenter: FewShotSegmenter, labels: Labels) -> dict[str, list[LabelledFile]]:
    """The images labelled as without a class, by its name; a trained decoder has no use for any."""
    if not isinstance(segmenter.scorer, TrainingFreeScorer):
        return {}
    return choose_negatives(labels)


def write_proposals(
    job: Job,
    labels: Labels,
    output: Path,
    format: str,
    *,
    shown: Sequence[LabelledFile],
    min_score: float,
    cleaning: Cleaning,
    simplify: float,
    review: Path | None,
) -> dict[str, int]:
    """Write what a job found, after the labelled images ``shown``, and the review table.

    Returns:
        The number of proposed regions by class.
    """

    def proposed() -> Iterator[tuple[LabelledFile, float]]:
        for query in job.done():
            proposal = Proposal.of(job.journal.read(query.path))
            extra = query.known.extra if query.known else None
            file = replace(proposal.file, extra=extra)
            yield kept(file, min_score, cleaning), proposal.certainty

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
    write_files(files, labels, output, format, simplify=simplify)
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
