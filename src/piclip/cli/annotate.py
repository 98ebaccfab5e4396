"""``piclip annotate``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import (
    DEFAULT_MODEL,
    MAX_PIXELS,
    MIN_PRESENCE,
    BatchSizeOption,
    ClipOption,
    DeviceOption,
    DtypeOption,
    FillHolesOption,
    JsonOption,
    LargestOption,
    MaxPixelsOption,
    MinAreaOption,
    MinPresenceOption,
    ModelOrDecoderOption,
    ThresholdOption,
    VisualOption,
    WorkersOption,
    examples,
)

EXAMPLES = examples(
    "piclip annotate --images photos --labels labels.json --holdout",
    "piclip annotate --images photos --labels labels.json --output proposals.json "
    "--min-score 0.5 --review review.csv",
    "piclip annotate --images photos --labels export.json --format label-studio "
    "--output tasks.json",
    "piclip annotate --images photos --labels masks --format masks --name zebra "
    "--output proposals.json --output-format coco",
)


def annotate(
    *,
    images: Annotated[Path, typer.Option(metavar="DIR", help="The images, labelled and not.")],
    labels: Annotated[Path, typer.Option(metavar="PATH", help="The file or folder of labels.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the labels: coco, yolo, label-studio, labelme, voc, masks, or auto to tell.",
        ),
    ] = "auto",
    name: Annotated[
        list[str] | None,
        typer.Option(help="A class, if the labels do not name it; repeat it in their order."),
    ] = None,
    empty_as_negatives: Annotated[
        bool,
        typer.Option(
            "--empty-as-negatives",
            help="Images that the labels list without a label hold none of the classes: learn from "
            "them when to draw nothing, instead of annotating them.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where the proposals go: a file for coco and label-studio, else a folder. May be "
            "left out with --holdout.",
        ),
    ] = None,
    output_format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the proposals. [default: as the labels]")
    ] = None,
    model: ModelOrDecoderOption = DEFAULT_MODEL,
    visual: VisualOption = None,
    clip: ClipOption = None,
    min_score: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Leave out regions whose mean score is lower."
        ),
    ] = 0.0,
    min_area: MinAreaOption = "0.05%",
    largest: LargestOption = False,
    fill_holes: FillHolesOption = False,
    simplify: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Draw outlines with fewer corners, which miss the others by at most as much; coco "
            "then has outlines instead of run lengths.",
        ),
    ] = 0.0,
    threshold: ThresholdOption = None,
    min_presence: MinPresenceOption = MIN_PRESENCE,
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Put the labels that were given into the output.")
    ] = False,
    review: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a CSV table, the image that the model is least certain of first.",
        ),
    ] = None,
    holdout: Annotated[
        bool,
        typer.Option(
            "--holdout",
            help="First measure by leave-one-out on the labelled images which IoU to expect.",
        ),
    ] = False,
    batch_size: BatchSizeOption = 8,
    workers: WorkersOption = 1,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over, and replace what is at --output.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Learn from the labelled images of a folder and propose regions for all others.

    Every image with a label teaches each class that it shows, at most 50 images per class; every
    image without one gets regions of all classes. In a folder of masks, a mask without object
    pixels says that the class is not in the image, as does a task of Label Studio that was
    submitted with nothing in it: that teaches when to draw nothing. Elsewhere --empty-as-negatives
    says so. The score of a region is the mean of its pixels' scores.

    Images that cannot be read are skipped and listed at the end. What is finished is kept in
    OUTPUT.journal: the same command run again goes on where it stopped, and --min-score,
    --min-area, --largest, --fill-holes, --simplify, --with-labels, --review and --output-format may
    be changed without computing anything again.

    Exit code: 0 when every image is annotated, 1 when some failed, 2 for a wrong command line.
    """
    from piclip import FewShotSegmenter, __version__
    from piclip.annotation.answers import How
    from piclip.annotation.fitted import choose_examples, digest, learn
    from piclip.annotation.holdout import held_out_images, hold_out
    from piclip.annotation.jobs import region_job
    from piclip.annotation.queries import Queries, find_queries
    from piclip.cli import annotate_folder as work
    from piclip.cli.console import (
        loading_model,
        people,
        print_json,
        print_outcome,
        progress_with_rate,
        running,
    )
    from piclip.formats import detect, get_format, read_labels
    from piclip.formats.cleaning import Cleaning
    from piclip.formats.registry import get_outlined

    # The registry has no hyphen where people write Label Studio's format with one.
    source = detect(labels) if format == "auto" else format.replace("-", "")
    target = output_format.replace("-", "") if output_format else source
    (get_outlined if simplify else get_format)(target)
    cleaning = Cleaning(min_area, largest, fill_holes)
    work.check_wanted(output, holdout=holdout, review=review)
    known = read_labels(labels, format=source, images=images, class_names=name or [])
    known = work.with_negatives(known, images, source) if empty_as_negatives else known
    examples = choose_examples(known)
    shown = known.labelled if with_labels else ()
    queries, failures = find_queries(known, images) if output else (Queries(()), [])
    if output:
        work.check_output(
            output, target, queries, shown, others=[labels, review], overwrite=overwrite
        )

    with loading_model():
        segmenter = FewShotSegmenter.from_pretrained(
            model, visual=visual, clip=clip, device=device, dtype=dtype
        )
    negatives = work.negatives_for(segmenter, known)
    settings = {  # what decides about the proposals, without what only decides about speed
        "piclip": __version__,
        "model": segmenter.scorer.fingerprint(),
        "labels": digest(examples, images, negatives=negatives),
        "threshold": threshold,
        "min_presence": min_presence,
        "dtype": dtype,
    }
    how = How(threshold, min_presence, batch_size, max_pixels)

    opened = region_job(queries, output, settings, overwrite=overwrite) if output else nullcontext()
    expectations, done, regions = [], 0, {}
    with opened as job:
        if holdout or (job and job.waiting):
            with people().status("Learning from the labelled images"):
                learn(segmenter, examples, images, negatives=negatives, max_pixels=max_pixels)
        if holdout:
            with progress_with_rate("Measuring", len(held_out_images(examples))) as on_progress:
                expectations = hold_out(
                    segmenter,
                    examples,
                    images,
                    negatives=negatives,
                    threshold=threshold,
                    min_presence=min_presence,
                    min_score=min_score,
                    cleaning=cleaning,
                    max_pixels=max_pixels,
                    on_progress=on_progress,
                )
            work.print_expectations(expectations)
        if job and output:
            with running("Annotating", job) as on_progress:
                job.run(segmenter, how, workers=workers, on_progress=on_progress)
            failures += job.failures()
            regions = work.write_proposals(
                job,
                known,
                output,
                target,
                shown=shown,
                min_score=min_score,
                cleaning=cleaning,
                simplify=simplify,
                review=review,
            )
            done = len(queries) - len(job.failures())
            print_outcome(
                "annotated",
                done=done,
                earlier=job.earlier,
                failures=[failure.reason for failure in failures],
                where="see --json",
                output=output,
                more=f", {sum(regions.values())} regions",
            )
    if json:
        print_json(
            {
                "output": str(output) if output else None,
                "annotated": done,
                "earlier": job.earlier if job else 0,
                "regions": regions,
                "failed": [{"image": f.path, "reason": f.reason} for f in failures],
                "holdout": [work.expectation_json(found) for found in expectations],
            }
        )
    if failures:
        raise typer.Exit(1)
