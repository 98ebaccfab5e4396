"""``piclip annotate``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from piclip.cli import options


def annotate(
    *,
    images: Annotated[str, typer.Option(metavar="DIR")],
    labels: Annotated[str, typer.Option(metavar="PATH")],
    format: Annotated[str, typer.Option(metavar="NAME")] = "auto",
    name: Annotated[list[str] | None, typer.Option(metavar="NAME")] = None,
    empty_as_negatives: bool = False,
    boxes: Annotated[str, typer.Option(metavar="HOW")] = "skip",
    strict: bool = False,
    output: Annotated[str | None, typer.Option(metavar="PATH")] = None,
    output_format: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    model: options.ModelOrDecoder = options.DEFAULT_MODEL,
    visual: options.Visual = None,
    clip: options.Clip = None,
    min_score: Annotated[
        float, typer.Option(min=0, max=1, callback=options.finite, metavar="SCORE")
    ] = 0.0,
    min_area: options.MinArea = "0.05%",
    largest: bool = False,
    fill_holes: bool = False,
    simplify: Annotated[
        float, typer.Option(min=0, callback=options.finite, metavar="PIXELS")
    ] = 0.0,
    threshold: options.Threshold = None,
    min_presence: options.MinPresence = options.MIN_PRESENCE,
    with_labels: bool = False,
    review: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    holdout: bool = False,
    batch_size: options.BatchSize = 8,
    workers: options.Workers = 1,
    engine: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    shards: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    ray_address: Annotated[str | None, typer.Option(metavar="URL")] = None,
    actors: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    num_gpus: Annotated[float, typer.Option(min=0, callback=options.finite, metavar="G")] = 0.0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    bands: options.Bands = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    overwrite: bool = False,
    json: bool = False,
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

    With --engine, with URLs and with lists the work is done in shards, Parquet files that appear
    when they are finished: the folder OUTPUT/shards for parquet, else OUTPUT.shards/shards. The
    images are then those that are there at the start, those in subfolders included, and one that
    cannot be read is not tried again.

    Exit code: 0 when every image is annotated, 1 when some failed, 2 for a wrong command line.

    Options:
        images: The images, labelled and not: a folder; or in shards a URL such as s3://, a text
            file with one path or URL a line, or a Parquet file with a column path.
        labels: The file or folder of labels.
        format: Of the labels: coco, yolo, labelstudio, labelme, voc, masks, cvat (XML for images),
            or auto to tell.
        name: A class, if the labels do not name it; repeat it in their order.
        empty_as_negatives: Images that the labels list without a label hold none of the classes:
            learn from them when to draw nothing, instead of annotating them.
        boxes: Of coco and yolo, boxes without a mask: skip, or as-masks to take their areas.
        strict: End where a label cannot be used, instead of leaving it out.
        output: Where the proposals go: a file for coco, labelstudio and parquet (a folder of them
            in shards), else a folder. May be left out with --holdout.
        output_format: Of the proposals; also parquet. [default: as the labels]
        min_score: Leave out regions whose mean score is lower.
        simplify: Draw outlines with fewer corners, which miss the others by at most as much; coco
            then has outlines instead of run lengths.
        with_labels: Put the labels that were given into the output.
        review: Write a CSV table, the image that the model is least certain of first.
        holdout: First measure by leave-one-out on the labelled images which IoU to expect.
        engine: Work in shards, which can go on anywhere: local in this process, ray on a Ray
            cluster or with actors on this computer.
        shards: Number of shards, fixed at the start. [default: one each 1000 images]
        ray_address: The Ray cluster. [default: this computer]
        actors: Processes on Ray. [default: as many as fit]
        num_gpus: Of each actor; a part of one will do.
        overwrite: Start over, and replace what is at --output.

    Examples:
        piclip annotate --images photos --labels labels.json --holdout
        piclip annotate --images photos --labels labels.json --output proposals.json
            --min-score 0.5 --review review.csv
        piclip annotate --images photos --labels export.json --format labelstudio
            --output tasks.json
        piclip annotate --images photos --labels masks --format masks --name zebra
            --output proposals.json --output-format coco
        piclip annotate --images s3://bucket/photos --labels labels.json --engine ray
            --num-gpus 1 --output s3://bucket/found --output-format parquet
    """
    from piclip import __version__
    from piclip.annotation.answers import How
    from piclip.annotation.jobs import region_job
    from piclip.annotation.queries import Queries
    from piclip.cli import annotate_folder as work
    from piclip.cli.annotate_shards import Cluster, annotate_shards, check_sharded
    from piclip.cli.console import people, print_json, print_outcome, running
    from piclip.formats.cleaning import Cleaning

    request = work.Request(
        images=images,
        labels=labels,
        format=format.replace("-", ""),  # as people write that of Label Studio
        class_names=name or [],
        boxes=boxes,
        strict=strict,
        empty_as_negatives=empty_as_negatives,
        output_format=output_format and output_format.replace("-", ""),
        model={"name_or_folder": model, "visual": visual, "clip": clip, "device": device},
        dtype=dtype,
        bands=options.bands_of(bands),
        how=How(threshold, min_presence, batch_size, max_pixels),
        min_score=min_score,
        cleaning=Cleaning(min_area, largest, fill_holes),
        simplify=simplify,
        overwrite=overwrite,
        json=json,
    )
    cluster = Cluster(engine, shards, ray_address, actors, num_gpus)
    if cluster.is_wanted(images, labels, output):
        alone = {
            "--holdout": holdout,
            "--review": review,
            "--with-labels": with_labels,
            "--workers": workers > 1,
        }
        annotate_shards(request, check_sharded(output, alone), cluster)
        return
    target = request.target(labels)
    place = Path(output) if output else None
    work.check_wanted(place, holdout=holdout, review=review)
    known = request.usable(request.read(labels, images), images)
    shown = known.labelled if with_labels else ()
    queries, missing = work.find_and_say(known, images) if output else (Queries(()), [])
    if place:
        others = [Path(labels), review]
        work.check_output(
            *(place, target, known.class_names, queries, shown), others=others, overwrite=overwrite
        )

    segmenter = request.load()
    lesson = work.lesson_for(segmenter, known, Path(images))
    settings = {  # what decides about the proposals, without what only decides about speed
        "piclip": __version__,
        "model": segmenter.scorer.fingerprint(),
        "labels": lesson.digest(),
        "threshold": threshold,
        "min_presence": min_presence,
        "dtype": dtype,
        "bands": segmenter.bands and list(segmenter.bands),
    }

    opened = region_job(queries, place, settings, overwrite=overwrite) if place else nullcontext()
    expectations, done, failures, regions = [], 0, [], {}
    with opened as job:
        if holdout or (job and job.waiting):
            with people().status("Learning from the labelled images"):
                lesson.teach(segmenter, max_pixels=max_pixels)
        if holdout:
            expectations = work.measure(request, segmenter, lesson)
        if job and place:
            with running("Annotating", job) as on_progress:
                job.run(segmenter, request.how, workers=workers, on_progress=on_progress)
            done = len(queries) - len(failures := job.failures())
            regions = work.write_proposals(
                *(request, job, known, place, target), shown=shown, failures=failures, review=review
            )
            print_outcome(
                "annotated",
                done=done,
                earlier=job.earlier,
                failures=[failure.reason for failure in failures],
                where="see --json",
                output=place,
                more=f", {sum(regions.values())} regions",
            )
    if json:
        print_json(
            {
                "output": str(place) if place else None,
                "annotated": done,
                "earlier": job.earlier if job else 0,
                "regions": regions,
                "skipped": list(known.skipped),
                "missing": missing,
                "failed": [{"image": f.path, "reason": f.reason} for f in failures],
                "holdout": [work.expectation_json(found) for found in expectations],
            }
        )
    if failures:
        raise typer.Exit(1)
