"""``piclip annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import (
    DEFAULT_MODEL,
    MAX_PIXELS,
    BatchSizeOption,
    ClipOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxPixelsOption,
    ModelOrDecoderOption,
    ThresholdOption,
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
    images: Annotated[
        Path, typer.Option("--images", metavar="DIR", help="The images, labelled and not.")
    ],
    labels: Annotated[
        Path, typer.Option("--labels", metavar="PATH", help="The file or folder of labels.")
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="Of the labels: coco, yolo, label-studio, labelme, voc, masks, or auto to tell.",
        ),
    ] = "auto",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="A class, if the labels do not name it; repeat it in their order."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="PATH",
            help="Where the proposals go: a file for coco and label-studio, else a folder. May be "
            "left out with --holdout.",
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--output-format", metavar="NAME", help="Of the proposals. [default: as the labels]"
        ),
    ] = None,
    model: ModelOrDecoderOption = DEFAULT_MODEL,
    clip: ClipOption = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score",
            min=0,
            max=1,
            metavar="SCORE",
            help="Leave out regions whose mean score is lower.",
        ),
    ] = 0.0,
    threshold: ThresholdOption = None,
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Put the labels that were given into the output.")
    ] = False,
    review: Annotated[
        Path | None,
        typer.Option(
            "--review",
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
    image without one gets regions of all classes. The score of a region is the mean of its
    pixels' scores.

    Images that cannot be read are skipped and listed at the end. What is finished is kept in
    OUTPUT.journal: the same command run again goes on where it stopped, and --min-score,
    --with-labels, --review and --output-format may be changed without computing anything again.

    Exit code: 0 when every image is annotated, 1 when some failed, 2 for a wrong command line.
    """
    from piclip.cli.annotate_folder import AnnotateRequest, annotate_folder
    from piclip.cli.annotate_report import as_json, report
    from piclip.cli.console import print_json

    request = AnnotateRequest(
        images=images,
        labels=labels,
        format=format,
        names=name or [],
        output=output,
        output_format=output_format,
        model=model,
        clip=clip,
        min_score=min_score,
        threshold=threshold,
        with_labels=with_labels,
        review=review,
        holdout=holdout,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        max_pixels=max_pixels,
        overwrite=overwrite,
    )
    outcome = annotate_folder(request)
    report(outcome, output)
    if json:
        print_json(as_json(outcome, output))
    if outcome.failures:
        raise typer.Exit(1)
