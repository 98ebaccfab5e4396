"""A whole job: take up or start its folder, and make the shards that are missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from piclip import __version__
from piclip.annotation.answers import How
from piclip.distributed.catalogue import numbered
from piclip.distributed.ray_engine import Pool, shards_by_ray
from piclip.distributed.shards import MOST_SHARDS, Shards
from piclip.distributed.worker import Worker, saved_files
from piclip.errors import UsageError
from piclip.io.images import MAX_PIXELS
from piclip.io.ownership import owned
from piclip.io.storage import absolute, joined, local_path
from piclip.results import MIN_PRESENCE
from piclip.segmenter import FewShotSegmenter

_PATHS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Annotated:
    """What became of a job: what was found, and how many images."""

    shards: Shards
    images: int  # all of them
    failed: int  # those in which nothing could be found out
    earlier: int  # finished by earlier runs, failed ones included
    earlier_failed: int


def annotate(
    segmenter: FewShotSegmenter,
    images: str | Path,
    output: str | Path,
    *,
    without: Collection[str] = (),
    learned: str | None = None,
    threshold: float | None = None,
    min_presence: float = MIN_PRESENCE,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    shards: int | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    actors: int | None = None,
    num_gpus: float = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, rows: None,
) -> Annotated:
    """Propose regions for images, however many, into Parquet files; see `piclip.distributed`.

    The same call goes on with what an earlier one left, with either engine and any number of
    actors. Images that cannot be read are rows with a reason.

    Args:
        segmenter: It has learned the classes. For Ray its model is ``"builtin"``, a name of the
            hub, or a folder that all computers have.
        images: A folder with its subfolders; a text file with one path or URL a line; or a Parquet
            file (or folder of such, named ``.parquet``) with a column ``path``. A path or a URL of
            fsspec (``s3://``, ``gs://``, ``file://`` ...). Relative paths are below the folder, or
            that of the list. Folders and text files are read once, when the job is started.
        output: The job's folder, a path or URL: ``job.json`` and ``shards/part-NUMBER.parquet``,
            see `piclip.annotation.parquet` for their columns.
        without: Images to leave out, relative to the folder or that of the list.
        learned: Tells what the segmenter has learned from what it would learn of other images; by
            default a digest, which another device may compute otherwise.
        threshold: Least score of a class; by default the model's own.
        min_presence: Classes that are less likely to be in an image get no pixel.
        batch_size: How many images are segmented together.
        max_pixels: Larger images are refused.
        shards: Number of shards, fixed when the job is started; by default one each 1000 images.
        engine: "local" is this process, "ray" a pool of actors.
        ray_address: Of a Ray cluster; by default this computer.
        actors: Number of actors; by default as many as there is room for.
        num_gpus: What each actor has of a GPU; 0 for the processor alone.
        overwrite: Start over, whatever is there.
        on_progress: Called with the number of images that are done, and that of rows of paths, of
            which some may be left out or there twice; at the end both are that of images.

    Raises:
        UsageError: There are no images, the output holds something else or a job with other
            settings, or an argument is out of range.
        OutputError: The output cannot be written.
        PiclipError: A cluster or the storage of the images cannot be reached.
    """
    if engine not in ("local", "ray"):
        raise UsageError(f"There is no engine {engine!r}; choose local or ray.")
    if engine == "local" and (ray_address or actors or num_gpus):
        raise UsageError("An address, actors and GPUs are for the engine ray; choose it.")
    if min(count for count in (shards, actors, 1) if count is not None) < 1 or num_gpus < 0:
        raise UsageError("There must be one shard and one actor or more, and no fewer than 0 GPUs.")
    if shards is not None and shards > MOST_SHARDS:
        raise UsageError(f"There are {MOST_SHARDS:,} shards at most, not {shards}; take fewer.")
    if not segmenter.classes:
        raise UsageError("The segmenter has seen no labelled image; call fit first.")
    folder = absolute(str(output))
    settings = {
        "piclip": __version__,
        "model": segmenter.scorer.fingerprint(),
        "classes": list(segmenter.classes),
        "labels": learned or _digest(b"".join(saved_files(segmenter).values())),
        "without": _digest("\n".join(sorted(without)).encode("utf-8", "surrogatepass")),
        "threshold": threshold,
        "min_presence": min_presence,
        "bands": segmenter.bands and list(segmenter.bands),
        "dtype": str(segmenter.scorer.dtype).removeprefix("torch."),
    }
    how = How(threshold, min_presence, batch_size, max_pixels)
    own = local_path(folder)
    with owned(Path(own), Path(own) / ".piclip.lock") if own else nullcontext():
        job = Shards.open(
            folder, absolute(str(images)), settings, count=shards, overwrite=overwrite
        )
        done = job.done()
        earlier, earlier_failed = job.counts(done)
        total, failed = earlier, earlier_failed
        missing = frozenset(range(job.count)) - done
        left_out = frozenset(joined(job.images, path) for path in without)
        on_progress(total, job.catalogue.rows)
        if missing and engine == "ray":
            pool = Pool(ray_address, actors, num_gpus)
            made = shards_by_ray(segmenter, job, missing, how, pool, left_out)
        else:
            made = _shards_here(Worker(segmenter, job, how), missing, left_out)
        for own_images, own_failed in made:
            total, failed = total + own_images, failed + own_failed
            on_progress(total, job.catalogue.rows)
        job.tidy()
        on_progress(total, total)
    if total == 0:
        raise UsageError("There is no image to annotate; give others, or leave fewer out.")
    return Annotated(job, total, failed, earlier, earlier_failed)


def _shards_here(
    worker: Worker, missing: frozenset[int], without: frozenset[str]
) -> Iterator[tuple[int, int]]:
    """Make shards in this process; the catalogue is gone through once for a million images."""
    job = worker.shards
    waiting = iter(sorted(missing))
    at_once = max(1, job.count * _PATHS_AT_ONCE // max(1, job.catalogue.rows))
    while numbers := list(islice(waiting, at_once)):
        paths: dict[int, list[str]] = {number: [] for number in numbers}
        for group in job.catalogue.paths():
            for number, path in numbered(group, job.images, job.count, without):
                if number in paths:
                    paths[number].append(path)
        for number in numbers:
            if own := paths.pop(number):
                yield worker.work(number, own)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
