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

from piclip import FewShotSegmenter
from piclip.annotation.export import ONE_FILE, check_destination
from piclip.annotation.fitted import choose_examples, digest, learn
from piclip.cli.annotate_folder import negatives_for, refuse_edited, written_format
from piclip.cli.console import people, print_json, print_outcome, progress_bar, writing
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

_MOST_FAILURES = 1000
"""So many are printed with --json; the shards have all of them."""


@dataclass(frozen=True)
class Cluster:
    """What a command line says about shards and who makes them.

    Attributes:
        engine: "local" or "ray"; None where it does not say.
        shards: Number of shards.
        address: Of a Ray cluster.
        actors: Number of actors.
        num_gpus: Of each actor.
    """

    engine: str | None
    shards: int | None
    address: str | None
    actors: int | None
    num_gpus: float

    def is_wanted(self, images: str, *others: str | None) -> bool:
        """Whether a job is to be done in shards (UsageError where a part of it alone is given)."""
        places = (images, *(other for other in others if other))
        if self.engine or any(map(is_url, places)) or is_file(images):
            return True
        if self.shards or self.address or self.actors or self.num_gpus:
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


def annotate_shards(
    images: str,
    labels: str,
    output: str,
    *,
    format: str,
    read: Callable[..., Labels],
    usable: Callable[..., Labels],
    output_format: str | None,
    load: Callable[[], FewShotSegmenter],
    cluster: Cluster,
    threshold: float | None,
    min_presence: float,
    min_score: float,
    cleaning: Cleaning,
    simplify: float,
    batch_size: int,
    max_pixels: int,
    overwrite: bool,
    json: bool,
) -> None:
    """Learn, annotate shard by shard, and write the shards in the format that is wanted.

    ``read`` and ``usable`` are `read_and_say` and `readable`, but for their options.
    """
    labels_at, root = absolute(labels), root_of(absolute(images))
    with _scratch(labels_at, root) as (scratch, called):
        known, folder = _labels(labels_at, root, scratch, partial(read, called=called))
        known = usable(known, folder.images, called=called)
        target = written_format(folder.labels, format, output_format, simplify=simplify)
        if target == "parquet" and (min_score or cleaning.largest or cleaning.fill_holes):
            raise UsageError(
                "The shards hold every region and its score; leave --min-score out, and --largest "
                "and --fill-holes."
            )
        # Tasks elsewhere have another working directory, and OUT/.shards would lie within OUT.
        place = absolute(output)
        job_folder = place if target == "parquet" else f"{place}.shards"
        if target != "parquet":
            check_names(target, known.class_names)
            _check_output(place, target, job_folder, images, labels, overwrite=overwrite)
        examples = choose_examples(known)
        segmenter = load()
        negatives = negatives_for(segmenter, known)
        with people().status("Learning from the labelled images"):
            learned = digest(examples, folder.images, negatives=negatives)
            learn(segmenter, examples, folder.images, negatives=negatives, max_pixels=max_pixels)
        labelled = (find_image(folder.images, file.path) for file in known.labelled)
        pool = None
        if cluster.engine == "ray" and target not in (*ONE_FILE, "parquet"):
            pool = Pool(cluster.address, cluster.actors)
        with connected(pool) if pool else nullcontext():  # once, for the shards and label files
            with _bar() as on_progress:
                done = annotate(
                    segmenter,
                    images,
                    job_folder,
                    without=[p.relative_to(folder.images).as_posix() for p in labelled if p],
                    learned=learned,
                    threshold=threshold,
                    min_presence=min_presence,
                    batch_size=batch_size,
                    max_pixels=max_pixels,
                    shards=cluster.shards,
                    engine=cluster.engine or "local",  # type: ignore[arg-type]  # refuses others
                    ray_address=cluster.address,
                    actors=cluster.actors,
                    num_gpus=cluster.num_gpus,
                    overwrite=overwrite,
                    on_progress=on_progress,
                )
            if target != "parquet":
                listed = {
                    file.path: file
                    for file in known.images
                    if not file.labelled and (file.extra or target in ONE_FILE)
                }
                keep = partial(_kept, min_score=min_score, cleaning=cleaning, listed=listed)
                with writing(output):
                    Export(done.shards, known, place, target, keep, simplify).write(pool)
    _report(done, output, known.skipped, json=json)
    if done.failed:
        raise typer.Exit(1)


def _kept(
    file: LabelledFile,
    *,
    min_score: float,
    cleaning: Cleaning,
    listed: Mapping[str, LabelledFile],
) -> LabelledFile:
    """What is written of an image, with what the labels say of it; tasks of Ray call it, too."""
    file = kept(file, min_score, cleaning)
    if (known := listed.get(file.path)) is None:
        return file
    return replace(file, id=known.id, source=known.source, extra=known.extra)


def _check_output(
    output: str, format: str, job: str, images: str, labels: str, *, overwrite: bool
) -> None:
    """Refuse to write over what no earlier run has made (UsageError)."""
    root = root_of(absolute(images))
    if output in {absolute(images), absolute(labels)}:
        raise UsageError(
            "The --images, the --labels and the --output must be different; choose another "
            "--output."
        )
    own = local_path(output)
    below = [Path(root) / "any"] if local_path(root) and own else []
    check_destination(Path(own or PurePosixPath(output).name), format, (), below)
    foreign = is_file(output) or names(output)
    if foreign and not is_file(f"{job}/job.json") and not overwrite:
        raise UsageError(
            f"{output} is there already and no run of piclip annotate has made it; choose another "
            f"--output, or add --overwrite."
        )
    if format == "labelme" and own and not overwrite:
        refuse_edited(Path(own).rglob("*.json"), Path(own))


@dataclass(frozen=True)
class _Copies:
    """Where labels and labelled images are on this computer."""

    labels: Path
    images: Path


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


def _labels(
    labels: str, root: str, scratch: Path, read: Callable[[Path, Path | None], Labels]
) -> tuple[Labels, _Copies]:
    """Read labels; they and the images that they label are fetched if they are elsewhere."""
    own, own_root = local_path(labels), local_path(root)
    place = Path(own) if own else fetch_all(labels, scratch / "labels")
    copies = _Copies(place, Path(own_root) if own_root else scratch / "images")
    if own_root is None:
        copies.images.mkdir()
        if place.is_dir():  # named as their images are, whose sizes are read with them
            stems = {file.stem for file in place.rglob("*")}
            for path in names(root):
                if PurePosixPath(path).stem in stems:
                    fetch(f"{root}/{path}", copies.images / path)
    # Of a file of labels elsewhere the images come later, those that it labels alone.
    known = read(place, copies.images if own_root or place.is_dir() else None)
    if own_root is None:
        for file in known.labelled:
            _fetch_labelled(file, root, copies.images)
    return known, copies


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
    done = rows = 0
    with progress_bar() as bar:
        task = bar.add_task("Annotating", total=None)

        def on_progress(now: int, all_rows: int) -> None:
            nonlocal done, rows
            done, rows = now, all_rows
            bar.update(task, completed=done, total=rows)

        try:
            yield on_progress
        except KeyboardInterrupt as error:
            raise PiclipError(
                f"Stopped with {done} of {rows} images done; run the same command again to go on."
            ) from error


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
