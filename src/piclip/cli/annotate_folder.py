"""The parts of ``piclip annotate``: what it refuses, writes and tells people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from piclip import FewShotSegmenter
from piclip.annotation.answers import How
from piclip.annotation.export import check_destination, is_review, write_files, write_review
from piclip.annotation.fitted import Lesson, choose_examples, choose_negatives, with_readable
from piclip.annotation.holdout import Expectation, held_out_images, hold_out
from piclip.annotation.jobs import Job, journal_path
from piclip.annotation.parquet import row_of, write_rows
from piclip.annotation.queries import Failure, Queries, find_queries
from piclip.annotation.sinks import Proposal
from piclip.cli.console import (
    load_model,
    people,
    print_some,
    print_table,
    progress_with_rate,
    writing,
)
from piclip.errors import MaskError, UsageError
from piclip.formats import LabelledFile, Labels, detect, labelme, read_labels
from piclip.formats.cleaning import Cleaning, kept
from piclip.formats.labels import label_paths
from piclip.formats.registry import FORMATS, READERS, check_names, get_format
from piclip.io.bands import Bands
from piclip.io.extras import arrow
from piclip.io.outputs import atomic_path


@dataclass(frozen=True)
class Request:
    """What ``piclip annotate`` is asked for, on this computer and in shards, as its options say it.

    With ``called`` a sentence names what people know, where other files are read in its place.
    """

    images: str
    labels: str
    format: str
    class_names: Sequence[str]
    boxes: str
    strict: bool
    empty_as_negatives: bool
    output_format: str | None
    model: Mapping[str, Any]
    dtype: str
    bands: Bands | None
    how: How
    min_score: float
    cleaning: Cleaning
    simplify: float
    overwrite: bool
    json: bool
    called: Callable[[str], str] = str

    def read(self, source: str | Path, images: str | Path | None) -> Labels:
        """Read labels; print what was decided in it, and what of them is left out."""
        with people().status("Reading the labels"):
            labels = read_labels(
                source,
                format=self.format,
                images=images,
                class_names=self.class_names,
                boxes=self.boxes,  # type: ignore[arg-type]  # refuses others
                strict=self.strict,
            )
        labels = self._told(labels)
        for note in labels.notes:
            people().print(note)
        _say_skipped(labels.skipped)
        if not self.empty_as_negatives or images is None:
            return labels
        if self._format_of(source) == "labelstudio":
            raise UsageError(
                "Label Studio tells tasks that were submitted empty from those without a label; "
                "leave out --empty-as-negatives."
            )
        return labels.with_empty_as_negatives(images)

    def usable(self, labels: Labels, images: str | Path) -> Labels:
        """As `with_readable`; print which labels are left out (MaskError if ``strict``)."""
        with people().status("Reading the labelled images"):
            found = with_readable(labels, images, max_pixels=self.how.max_pixels, bands=self.bands)
        found = self._told(found)
        more = found.skipped[len(labels.skipped) :]
        if self.strict and more:
            raise MaskError("\n".join(more))
        _say_skipped(more)
        return found

    def target(self, labels: str | Path) -> str:
        """The format of the proposals, as wanted or as the labels (UsageError if not possible)."""
        wanted = self.output_format
        name = self._format_of(labels) if wanted is None else wanted
        if self.simplify or name in READERS:
            get_format(name, outlined=bool(self.simplify))
        elif name == "parquet":
            arrow()
        else:
            known = ", ".join((*FORMATS, "parquet"))
            raise UsageError(f"There is no label format {name!r}; the formats are {known}.")
        return name

    def load(self) -> FewShotSegmenter:
        """The segmenter, with nothing learned."""
        return load_model(**self.model, dtype=self.dtype, bands=self.bands)

    def keep(self, file: LabelledFile) -> LabelledFile:
        """What of an image's proposals is written."""
        return kept(file, self.min_score, self.cleaning)

    def _told(self, labels: Labels) -> Labels:
        skipped, notes = (tuple(map(self.called, said)) for said in (labels.skipped, labels.notes))
        return replace(labels, skipped=skipped, notes=notes)

    def _format_of(self, labels: str | Path) -> str:
        return detect(labels) if self.format == "auto" else self.format


def _say_skipped(sentences: Sequence[str]) -> None:
    if sentences:
        people().print(
            f"{len(sentences)} of the labels cannot be used and are left out (--strict ends there):"
        )
        print_some(sentences, "see --json")


def find_and_say(labels: Labels, images: str | Path) -> tuple[Queries, list[str]]:
    """As `find_queries`; print which images are not there: labels are often of more of them."""
    queries, missing = find_queries(labels, images)
    if missing:
        people().print(f"{len(missing)} images that the labels list are not in {images}:")
        print_some(missing, "see --json")
    return queries, missing


def check_wanted(output: Path | None, *, holdout: bool, review: Path | None) -> None:
    """Refuse a command line that asks for nothing, or for a part alone (UsageError)."""
    if output is None and not holdout:
        raise UsageError("There is nothing to do: give --output, --holdout or both.")
    if output is None and review is not None:
        raise UsageError("A --review needs an --output, too; give both.")
    if review is not None and review.is_file() and not is_review(review):
        raise UsageError(f"The --review {review} is another file already; choose another name.")


def check_output(
    output: Path,
    format: str,
    class_names: Sequence[str],
    queries: Queries,
    shown: Sequence[LabelledFile],
    *,
    others: Sequence[Path | None],
    overwrite: bool,
) -> None:
    """Refuse an output that does not do, before a model is loaded (UsageError).

    There is nothing to propose, it does not fit the format or the images, the format cannot hold
    the names of the classes, it is one of the ``others`` of the command line, or something is there
    that no earlier run has made. The labelled images ``shown`` go into it, too.
    """
    if not queries:
        raise UsageError(
            "Every image is labelled, so that there is nothing to propose; add images to the "
            "folder of --images, or leave --output out to measure with --holdout."
        )
    check_names(format, class_names)
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
        there = [output / target for target in targets if (output / target).exists()]
        foreign = bool(there)
        if not overwrite:
            refuse_edited(there, output)
    else:
        foreign = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if foreign and not journal_path(output).exists() and not overwrite:
        raise made_by_others(output)


def made_by_others(output: object) -> UsageError:
    """The error for an output that is there and that no earlier run has made."""
    return UsageError(
        f"{output} is there already and no run of piclip annotate has made it; choose another "
        f"--output, or add --overwrite."
    )


def refuse_edited(files: Iterable[Path], output: Path) -> None:
    """Refuse to write over labelme files that a person has corrected (UsageError)."""
    edited = next(filter(labelme.is_edited, files), None)
    if edited is not None:
        raise UsageError(
            f"{edited} was changed since it was written, and would be written over; give "
            f"--labels {output} to learn from it, or choose another --output."
        )


def lesson_for(segmenter: FewShotSegmenter, labels: Labels, images: Path) -> Lesson:
    """What is learned; of images labelled as without a class a trained decoder learns nothing."""
    negatives = choose_negatives(labels) if segmenter.scorer.takes_negatives else {}
    return Lesson(images, choose_examples(labels), negatives)


def write_proposals(
    request: Request,
    job: Job,
    labels: Labels,
    output: Path,
    format: str,
    *,
    shown: Sequence[LabelledFile],
    failures: Sequence[Failure],
    review: Path | None,
) -> dict[str, int]:
    """Write what a job found, after the labelled images ``shown``, and the review table.

    A Parquet file has the failures, too. Gives the number of proposed regions by class.
    """

    def proposed() -> Iterator[Proposal]:
        for query in job.done():
            found = Proposal.of(query.path, job.journal.read(query.path).found)
            extra = query.known.extra if query.known else None
            yield replace(found, file=request.keep(replace(found.file, extra=extra)))

    def written() -> Iterator[Proposal]:
        yield from (Proposal(file, certainty=None) for file in shown)
        yield from proposed()

    def files() -> Iterator[LabelledFile]:
        return (proposal.file for proposal in written())

    counts = Counter(dict.fromkeys(labels.class_names, 0))
    with writing(output):
        for proposal in proposed():
            counts.update(region.class_name for region in proposal.file.regions)
        if review is not None:
            write_review(proposed(), review)
        if format == "parquet":
            with atomic_path(output) as temporary:
                write_rows(chain(map(row_of, written()), map(vars, failures)), temporary)
        else:
            write_files(files, labels, output, format, simplify=request.simplify)
    return dict(counts)


def measure(request: Request, segmenter: FewShotSegmenter, lesson: Lesson) -> list[Expectation]:
    """Hold out labelled images, and print and give which IoU to expect of each class."""
    with progress_with_rate("Measuring", len(held_out_images(lesson.examples))) as on_progress:
        expectations = hold_out(
            segmenter, lesson, request.how, keep=request.keep, on_progress=on_progress
        )
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
    return expectations


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
