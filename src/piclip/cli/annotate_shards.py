"""``piclip annotate`` in shards: buckets, lists of images, and more than one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import typer

from piclip.annotation.export import ONE_FILE, check_destination
from piclip.cli.annotate_folder import Request, lesson_for, made_by_others, refuse_edited
from piclip.cli.console import people, print_json, print_outcome, progress_lines, stopped, writing
from piclip.distributed.catalogue import root_of
from piclip.distributed.export import Export
from piclip.distributed.job import Annotated, annotate
from piclip.distributed.ray_engine import Pool, connected
from piclip.errors import ImageError, PiclipError, UsageError
from piclip.formats import LabelledFile, Labels
from piclip.formats.cleaning import Cleaning, kept
from piclip.formats.image_files import find_image
from piclip.formats.registry import check_names
from piclip.io.storage import (
    absolute,
    fetch,
    fetch_all,
    is_file,
    is_url,
    joined,
    local_path,
    names,
)

_MOST_FAILURES = 1000  # so many are printed with --json; the shards have all of them


@dataclass(frozen=True)
class Cluster:
    """What a command line says about shards and who makes them, as `annotate` takes it."""

    engine: str | None
    shards: int | None
    ray_address: str | None
    actors: int | None
    num_gpus: float

    def is_wanted(self, images: str, *others: str | None) -> bool:
        """Whether a job is to be done in shards (UsageError where a part of it alone is given)."""
        places = (images, *(other for other in others if other))
        if self.engine or any(map(is_url, places)) or is_file(images):
            return True
        if self.shards or self.ray_address or self.actors or self.num_gpus:
            raise UsageError(
                "--shards, --ray-address, --actors and --num-gpus are for work in shards; add "
                "--engine local or --engine ray."
            )
        return False


def check_sharded(output: str | None, alone: Mapping[str, object]) -> str:
    """The output (UsageError where there is none, or something that is for single runs alone)."""
    given = [option for option, value in alone.items() if value]
    if given or output is None:
        raise UsageError(
            f"{', '.join(given) or '--holdout alone'} is for a folder on this computer without "
            f"--engine; run it with a part of the images first."
        )
    return output


def annotate_shards(request: Request, output: str, cluster: Cluster) -> None:
    """Learn, annotate shard by shard, and write the shards in the format that is wanted."""
    labels_at, root = absolute(request.labels), root_of(absolute(request.images))
    with _scratch(labels_at, root) as (scratch, called):
        request = replace(request, called=called)
        known, labels, images = _labels(request, labels_at, root, scratch)
        known = request.usable(known, images)
        target = request.target(labels)
        if target == "parquet" and (
            request.min_score or request.cleaning.largest or request.cleaning.fill_holes
        ):
            raise UsageError(
                "The shards hold every region and its score; leave --min-score out, and --largest "
                "and --fill-holes."
            )
        # Tasks elsewhere have another working directory, and OUT/.shards would lie within OUT.
        place = absolute(output)
        job_folder = place if target == "parquet" else f"{place}.shards"
        if target != "parquet":
            check_names(target, known.class_names)
            _check_output(request, place, target, job_folder)
        segmenter = request.load()
        lesson = lesson_for(segmenter, known, images)
        with people().status("Learning from the labelled images"):
            learned = lesson.digest()
            lesson.teach(segmenter, max_pixels=request.how.max_pixels)
        labelled = (find_image(images, file.path) for file in known.labelled)
        pool = None
        if cluster.engine == "ray" and target not in (*ONE_FILE, "parquet"):
            pool = Pool(cluster.ray_address, cluster.actors)
        with connected(pool) if pool else nullcontext():  # once, for the shards and label files
            with _bar() as on_progress:
                done = annotate(
                    segmenter,
                    request.images,
                    job_folder,
                    without=[p.relative_to(images).as_posix() for p in labelled if p],
                    learned=learned,
                    **vars(request.how),
                    **{**vars(cluster), "engine": cluster.engine or "local"},
                    overwrite=request.overwrite,
                    on_progress=on_progress,
                )
            if target != "parquet":
                listed = {
                    file.path: file
                    for file in known.images
                    if not file.labelled and (file.extra or target in ONE_FILE)
                }
                keep = partial(_kept, request.min_score, request.cleaning, listed)
                with writing(output):
                    Export(done.shards, known, place, target, keep, request.simplify).write(pool)
    _report(done, output, known.skipped, json=request.json)
    if done.failed:
        raise typer.Exit(1)


def _kept(
    min_score: float, cleaning: Cleaning, listed: Mapping[str, LabelledFile], file: LabelledFile
) -> LabelledFile:
    """What is written of an image, with what the labels say of it; tasks of Ray call it, too."""
    file = kept(file, min_score, cleaning)
    if (known := listed.get(file.path)) is None:
        return file
    return replace(file, id=known.id, source=known.source, extra=known.extra)


def _check_output(request: Request, output: str, format: str, job: str) -> None:
    """Refuse to write over what no earlier run has made (UsageError)."""
    root = root_of(absolute(request.images))
    if output in {absolute(request.images), absolute(request.labels)}:
        raise UsageError(
            "The --images, the --labels and the --output must be different; choose another "
            "--output."
        )
    own = local_path(output)
    below = [Path(root) / "any"] if local_path(root) and own else []
    check_destination(Path(own or PurePosixPath(output).name), format, (), below)
    if request.overwrite:
        return
    if (is_file(output) or names(output)) and not is_file(f"{job}/job.json"):
        raise made_by_others(output)
    if format == "labelme" and own:
        refuse_edited(Path(own).rglob("*.json"), Path(own))


@contextmanager
def _scratch(labels: str, root: str) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """A folder for what `_labels` fetches, and how a sentence about that comes to name its URL.

    An error that leaves the block does so, too.
    """
    with TemporaryDirectory(prefix="piclip-") as folder:

        def called(sentence: str) -> str:
            copy = f"{folder}/labels/{PurePosixPath(labels).name}"
            return sentence.replace(copy, labels).replace(f"{folder}/images", root)

        try:
            yield Path(folder), called
        except PiclipError as error:
            raise type(error)(called(str(error))) from error


def _labels(request: Request, labels: str, root: str, scratch: Path) -> tuple[Labels, Path, Path]:
    """Read labels; they and the images that they label are fetched if they are elsewhere.

    Returns:
        The labels, where they are on this computer, and the folder of their images.
    """
    own, own_root = local_path(labels), local_path(root)
    place = Path(own) if own else fetch_all(labels, scratch / "labels")
    images = Path(own_root) if own_root else scratch / "images"
    if own_root is None:
        images.mkdir()
        if place.is_dir():  # named as their images are, whose sizes are read with them
            stems = {file.stem for file in place.rglob("*")}
            for path in names(root):
                if PurePosixPath(path).stem in stems:
                    fetch(f"{root}/{path}", images / path)
    # Of a file of labels elsewhere the images come later, those that it labels alone.
    known = request.read(place, images if own_root or place.is_dir() else None)
    if own_root is None:
        for file in known.labelled:
            _fetch_labelled(file, root, images)
    return known, place, images


def _fetch_labelled(file: LabelledFile, root: str, folder: Path) -> None:
    """Fetch a labelled image, from where `find_image` would look for it."""
    for path in dict.fromkeys((file.path, PurePosixPath(file.path).name)):
        try:
            if not (folder / path).exists():
                fetch(joined(root, path), folder / path)
        except ImageError:
            (folder / path).unlink(missing_ok=True)
        else:
            return


@contextmanager
def _bar() -> Iterator[Callable[[int, int], object]]:
    """A progress bar; Ctrl-C in the block says how far it is (PiclipError)."""
    far = 0, 0
    with progress_lines("Annotating") as (progress,):

        def on_progress(done: int, rows: int) -> None:
            nonlocal far
            far = done, rows
            progress(done, rows)

        try:
            yield on_progress
        except KeyboardInterrupt as error:
            raise stopped(*far) from error


def _report(done: Annotated, output: str, skipped: Sequence[str], *, json: bool) -> None:
    earlier = done.earlier - done.earlier_failed
    failures = list(islice(done.shards.failures(), _MOST_FAILURES)) if done.failed else []
    print_outcome(
        "annotated",
        done=done.images - done.failed,
        earlier=earlier,
        failures=[failure.with_name for failure in failures],
        where=f"see the rows with a reason in {done.shards.folder}/shards",
        output=output,
        failed=done.failed,
    )
    if json:
        print_json(
            {
                "output": output,
                "shards": f"{done.shards.folder}/shards",
                "annotated": done.images - done.failed,
                "earlier": earlier,
                "skipped": list(skipped),
                "failures": done.failed,
                "failed": [{"image": f.path, "reason": f.reason} for f in failures],
            }
        )
