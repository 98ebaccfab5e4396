"""``piclip segment``."""

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
    MaskOption,
    MaxPixelsOption,
    ModelOrDecoderOption,
    SupportOption,
    ThresholdOption,
    examples,
    paired,
)

EXAMPLES = examples(
    "piclip segment --support zebra.jpg --mask zebra.png --name zebra --query photos --output out",
    "piclip segment --support a.jpg --mask a.png --support b.jpg --mask b.png --name zebra "
    "--query herd.jpg --output out --overlay",
    "piclip segment --support a.jpg --mask a.png --name zebra "
    "--support b.jpg --mask b.png --name lion --query photos --output out",
    "piclip segment --model builtin --support demo/images/support.png "
    "--mask demo/truth/support.png --name cat --query demo/images --output out",
)


def segment(
    *,
    support: SupportOption,
    mask: MaskOption,
    name: Annotated[
        list[str],
        typer.Option(
            "--name", help="What the masks show, in a word or two: once, or once per --support."
        ),
    ],
    query: Annotated[
        list[Path],
        typer.Option(
            "--query", metavar="PATH", help="An image or a folder of images; may be repeated."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where the results go.")
    ],
    model: ModelOrDecoderOption = DEFAULT_MODEL,
    clip: ClipOption = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw the masks over the images, too.")
    ] = False,
    threshold: ThresholdOption = None,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over in a folder with earlier results.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Segment images from one to a few labelled ones and the class's name.

    Writes a mask per image (PNG of the image's size: 0 and 255; with several classes their
    numbers, 0 for background) and results.json into the output folder, and overlays into
    its subfolder overlays.

    Files that cannot be read are skipped and listed at the end. The same command run again
    goes on where it stopped: what is done is not computed again, what failed is tried again.

    Exit code: 0 when every image has its mask, 1 when some failed, 2 for a wrong command line.
    """
    from piclip.cli.console import print_json
    from piclip.cli.segment_folder import SegmentRequest, report, segment_queries

    request = SegmentRequest(
        examples=paired(support, mask, name),
        queries=query,
        output=output,
        model=model,
        clip=clip,
        overlay=overlay,
        threshold=threshold,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        max_pixels=max_pixels,
        overwrite=overwrite,
    )
    outcome = segment_queries(request)
    report(outcome, output)
    if json:
        print_json(outcome.record.as_json())
    if outcome.failed:
        raise typer.Exit(1)
