"""The work of ``piclip annotate``: from labels to proposals, stopped and taken up again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from piclip import FewShotSegmenter, __version__
from piclip.annotation.export import Review, check_destination, write_files, write_review
from piclip.annotation.fitted import Examples, choose_examples, digest, learn
from piclip.annotation.holdout import Expectation, held_out_images, hold_out
from piclip.annotation.journal import Journal, stamp_of
from piclip.annotation.proposals import Failure, Query, find_queries, propose
from piclip.cli.annotate_report import Outcome, print_expectations, progress_with_rate
from piclip.cli.console import people
from piclip.errors import ImageError, PiclipError, UsageError
from piclip.formats import LabelledFile, Labels, detect, get_format, read_labels


@dataclass(frozen=True)
class AnnotateRequest:
    """What the command line asks for; see ``piclip annotate --help``."""

    images: Path
    labels: Path
    format: str
    names: Sequence[str]
    output: Path | None
    output_format: str | None
    model: str
    clip: str | None
    min_score: float
    threshold: float | None
    with_labels: bool
    review: Path | None
    holdout: bool
    batch_size: int
    device: str
    dtype: str
    max_pixels: int
    overwrite: bool


def annotate_folder(request: AnnotateRequest) -> Outcome:
    """Learn from what is labelled, measure if asked to, and propose for the rest.

    Raises:
        PiclipError: Something is wrong with the request, the labels, the model or the output, or
            Ctrl-C was pressed; what was finished stays.
    """
    source = detect(request.labels) if request.format == "auto" else _plain(request.format)
    target = _plain(request.output_format) if request.output_format else source
    get_format(target)
    if request.output is None and not request.holdout:
        raise UsageError("There is nothing to do: give --output, --holdout or both.")
    if request.output is None and request.review is not None:
        raise UsageError("A --review needs an --output, too; give both.")
    labels = read_labels(
        request.labels, format=source, images=request.images, class_names=request.names
    )
    examples = choose_examples(labels)
    queries, missing = find_queries(labels, request.images)
    if request.output is not None:
        _check_output(request, request.output, target, labels, queries)
    with people().status("Loading the model"):
        segmenter = FewShotSegmenter.from_pretrained(
            request.model, clip=request.clip, device=request.device, dtype=request.dtype
        )
    if request.output is None:
        _learn(request, segmenter, examples)
        return Outcome(_measure(request, segmenter, examples), 0, 0, {}, ())
    settings = _settings(request, segmenter, examples)
    journal = Journal(journal_path(request.output), settings, overwrite=request.overwrite)
    earlier = sum(_is_done(journal, query) for query in queries)
    expectations: list[Expectation] = []
    if request.holdout or earlier < len(queries):
        _learn(request, segmenter, examples)
    if request.holdout:
        expectations = _measure(request, segmenter, examples)
    failures = [*missing, *_propose(request, segmenter, journal, queries)]
    annotated = [query for query in queries if _is_done(journal, query)]
    told = {failure.path for failure in failures} | {query.path for query in annotated}
    failures += [
        Failure(query.path, f"{query.file}: the image vanished or changed meanwhile; try it again.")
        for query in queries
        if query.path not in told
    ]
    regions = _write(request, request.output, target, labels, journal, annotated)
    return Outcome(expectations, len(annotated), earlier, regions, failures)


def journal_path(output: Path) -> Path:
    """Where the finished images of an output are kept: beside it."""
    return output.with_name(output.name + ".journal")


def _plain(name: str) -> str:
    """The registry's name of a format: Label Studio is written with a hyphen by people."""
    return name.replace("-", "")


def _check_output(
    request: AnnotateRequest, output: Path, format: str, labels: Labels, queries: Sequence[Query]
) -> None:
    if not queries:
        raise UsageError(
            "Every image is labelled, so that there is nothing to propose; add images to "
            f"{request.images}, or leave --output out to measure with --holdout."
        )
    files = [request.labels, output, journal_path(output)]
    files += [request.review] if request.review else []
    if len({file.resolve() for file in files}) < len(files):
        raise UsageError(
            "The --labels, the --output and the --review must be different files; choose another "
            "--output."
        )
    shown = labels.labelled if request.with_labels else ()
    paths = [query.path for query in queries] + [file.path for file in shown]
    check_destination(output, format, paths, [query.file for query in queries])
    foreign = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if foreign and not journal_path(output).exists() and not request.overwrite:
        raise UsageError(
            f"{output} is there already and no run of piclip annotate has made it; choose another "
            f"--output, or add --overwrite."
        )


def _settings(
    request: AnnotateRequest, segmenter: FewShotSegmenter, examples: Examples
) -> dict[str, Any]:
    """What decides about the proposals, without what only decides about speed or form."""
    return {
        "piclip": __version__,
        "model": segmenter.scorer.fingerprint(),
        "labels": digest(examples, request.images),
        "threshold": request.threshold,
        "dtype": request.dtype,
    }


def _learn(request: AnnotateRequest, segmenter: FewShotSegmenter, examples: Examples) -> None:
    with people().status("Learning from the labelled images"):
        learn(segmenter, examples, request.images, max_pixels=request.max_pixels)


def _measure(
    request: AnnotateRequest, segmenter: FewShotSegmenter, examples: Examples
) -> list[Expectation]:
    with progress_with_rate("Measuring", len(held_out_images(examples))) as on_progress:
        expectations = hold_out(
            segmenter,
            examples,
            request.images,
            threshold=request.threshold,
            min_score=request.min_score,
            max_pixels=request.max_pixels,
            on_progress=on_progress,
        )
    print_expectations(expectations)
    return expectations


def _is_done(journal: Journal, query: Query) -> bool:
    try:
        return journal.has(query.path, stamp_of(query.file))
    except ImageError:
        return False


def _propose(
    request: AnnotateRequest,
    segmenter: FewShotSegmenter,
    journal: Journal,
    queries: Sequence[Query],
) -> list[Failure]:
    waiting = [query for query in queries if not _is_done(journal, query)]
    if not waiting:
        return []
    earlier = len(queries) - len(waiting)
    try:
        with progress_with_rate("Annotating", len(queries), earlier) as on_progress:
            return propose(
                segmenter,
                waiting,
                journal,
                threshold=request.threshold,
                batch_size=request.batch_size,
                max_pixels=request.max_pixels,
                on_progress=on_progress,
            )
    except KeyboardInterrupt as error:
        done = sum(_is_done(journal, query) for query in queries)
        raise PiclipError(
            f"Stopped with {done} of {len(queries)} images done; run the same command again to go "
            f"on."
        ) from error


def _write(
    request: AnnotateRequest,
    output: Path,
    format: str,
    labels: Labels,
    journal: Journal,
    queries: Sequence[Query],
) -> dict[str, int]:
    """Write what the journal holds; gives back the number of proposed regions by class."""

    def proposed() -> Iterator[tuple[LabelledFile, float]]:
        for query in queries:
            proposal = journal.read(query.path)
            kept = tuple(r for r in proposal.file.regions if (r.score or 0) >= request.min_score)
            yield replace(proposal.file, regions=kept), proposal.certainty

    def files() -> Iterator[LabelledFile]:
        yield from labels.labelled if request.with_labels else ()
        yield from (file for file, _ in proposed())

    counts = Counter(dict.fromkeys(labels.class_names, 0))
    reviews = []
    for file, certainty in proposed():
        scores = [region.score for region in file.regions if region.score is not None]
        counts.update(region.class_name for region in file.regions)
        reviews.append(Review(file.path, certainty, len(scores), min(scores, default=None)))
    if request.review is not None:
        write_review(reviews, request.review)
    write_files(files, labels, output, format)
    return dict(counts)
