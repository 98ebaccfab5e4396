"""``piclip segment``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from piclip.cli import options


def segment(
    *,
    support: options.Support,
    mask: options.Mask,
    name: Annotated[list[str], typer.Option(metavar="NAME")],
    query: Annotated[list[Path], typer.Option(metavar="PATH")],
    output: options.OutputFolder,
    negative: Annotated[list[Path] | None, typer.Option(metavar="IMAGE")] = None,
    model: options.ModelOrDecoder = options.DEFAULT_MODEL,
    visual: options.Visual = None,
    evidence: options.Evidence = "contrast",
    clip: options.Clip = None,
    overlay: bool = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    threshold: options.Threshold = None,
    min_presence: options.MinPresence = options.MIN_PRESENCE,
    min_area: options.MinArea = "0",
    largest: bool = False,
    fill_holes: bool = False,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    bands: options.Bands = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Segment images from one to a few labelled ones and the class's name.

    Writes a mask per image (PNG of the image's size: 0 and 255; with several classes their
    numbers, 0 for background) and results.json into the output folder, and overlays into
    its subfolder overlays. results.json also says how likely each class is to be in an image at
    all; one that is not likely enough (--min-presence) gets no pixel of it.

    Files that cannot be read are skipped and listed at the end. The same command run again
    goes on where it stopped: what is done is not computed again, what failed is tried again.

    Exit code: 0 when every image has its mask, 1 when some failed, 2 for a wrong command line.

    Options:
        name: What the masks show, in a word or two: once, or once per --support.
        query: An image or a folder of images; may be repeated.
        negative: An image without any of the classes, which tells when one is not there; repeat it
            for more.
        overlay: Draw the masks over the images, too.
        csv: Write a table, too: each image and class with its share of the pixels, its presence and
            its mean score.
        overwrite: Start over in a folder with earlier results.

    Examples:
        piclip segment --support zebra.jpg --mask zebra.png --name zebra --query photos
            --output out
        piclip segment --support a.jpg --mask a.png --support b.jpg --mask b.png --name zebra
            --query herd.jpg --output out --overlay
        piclip segment --support a.jpg --mask a.png --name zebra --support b.jpg --mask b.png
            --name lion --query photos --output out
        piclip segment --model builtin --support demo/images/support.png
            --mask demo/truth/support.png --name cat --query demo/images --output out
        piclip segment --visual facebook/dinov2-small --support zebra.jpg --mask zebra.png
            --name zebra --negative empty_savanna.jpg --query photos --output out
    """
    from piclip import Support, __version__
    from piclip.annotation.answers import How
    from piclip.annotation.export import write_table
    from piclip.annotation.fitted import file_digest
    from piclip.annotation.jobs import RESULTS, mask_job, results_of
    from piclip.annotation.queries import query_files
    from piclip.cli.console import load_model, people, print_outcome, running
    from piclip.errors import UsageError
    from piclip.formats.cleaning import Cleaning
    from piclip.io.outputs import check_file

    classes = options.paired(support, mask, name)
    negatives = negative or []
    cleaning, colours = Cleaning(min_area, largest, fill_holes), options.bands_of(bands)
    if negatives and evidence == "published":
        raise UsageError("The published priors learn from no --negative; leave it out.")
    queries = query_files(query, output, labelled=[*support, *mask, *negatives])
    if csv is not None:
        if csv.suffix.lower() != ".csv":
            raise UsageError(f"The --csv {csv} must be a file named .csv; add that to its name.")
        check_file(csv)
    digests = {
        label: [{"image": file_digest(image), "mask": file_digest(truth)} for image, truth in pairs]
        for label, pairs in classes.items()
    }
    chosen = {"visual": visual, "evidence": evidence, "clip": clip}
    segmenter = load_model(model, **chosen, device=device, dtype=dtype, bands=colours)
    settings = {  # what decides about the masks, without what only decides about speed
        "piclip": __version__,
        "model": model,
        **chosen,
        "weights": segmenter.scorer.fingerprint(),
        "classes": digests,
        "negatives": [file_digest(image) for image in negatives],
        "threshold": threshold,
        "min_presence": min_presence,
        "min_area": min_area,
        "largest": largest,
        "fill_holes": fill_holes,
        "dtype": dtype,
        "bands": segmenter.bands and list(segmenter.bands),
    }
    how = How(threshold, min_presence, batch_size, max_pixels)
    with mask_job(
        queries, output, settings, overlays=overlay, cleaning=cleaning, overwrite=overwrite
    ) as job:
        if job.waiting:
            with people().status("Learning from the labelled images"):
                segmenter.fit(
                    {label: [Support(*pair) for pair in pairs] for label, pairs in classes.items()},
                    negatives=negatives,
                    max_pixels=max_pixels,
                )
            with running("Segmenting", job) as on_progress:
                job.run(segmenter, how, workers=workers, on_progress=on_progress)
        failures = job.failures()
        if csv is not None:
            write_table(job.journal.entries(), csv)
        if json:
            sys.stdout.writelines(results_of(job.journal, ascii_only=True))
    print_outcome(
        "segmented",
        done=len(queries) - len(failures),
        earlier=job.earlier,
        failures=[failure.with_name for failure in failures],
        where=f"see {RESULTS}",
        output=output,
    )
    if failures:
        raise typer.Exit(1)
