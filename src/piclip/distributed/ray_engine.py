"""Shards made by a pool of actors of Ray Data, on this computer or on a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from piclip.annotation.answers import How
from piclip.distributed.catalogue import numbered_table
from piclip.distributed.shards import Shards
from piclip.distributed.worker import Worker, saved_files
from piclip.errors import PiclipError, UsageError
from piclip.io.extras import arrow, needs_extra
from piclip.io.storage import file_system
from piclip.segmenter import FewShotSegmenter

_GROUPS_EACH = 64  # groups of shards for each actor: what is lost when one is killed


@dataclass(frozen=True)
class Pool:
    """What a job asks of Ray."""

    address: str | None = None  # of the cluster; None: of RAY_ADDRESS, or else this computer
    actors: int | None = None  # each with a model; None: as many as there is room for
    num_gpus: float = 0  # what each has of a GPU, also a part of one


def shards_by_ray(
    segmenter: FewShotSegmenter,
    shards: Shards,
    missing: frozenset[int],
    how: How,
    pool: Pool,
    without: frozenset[str],
) -> Iterator[tuple[int, int]]:
    """Make the shards that are missing; a killed actor is started anew and goes on.

    The paths go from the catalogue to the actors through the cluster's memory, and the actors write
    the shards: what comes back is how many images each has, and how many of them failed. Errors are
    those of `connected` and `Worker.work`; a place may not be of this process alone (UsageError).
    """
    for place in (shards.folder, shards.images, shards.catalogue.place):
        if place.startswith("memory://"):
            raise UsageError(f"{place} is known to this process alone; use the engine local.")
    with connected(pool) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        actors = pool.actors or _room(ray.cluster_resources(), pool.num_gpus)
        # In the object store once; it stays there as long as this function has the reference.
        learned = ray.put(saved_files(segmenter))
        dtype = str(segmenter.scorer.dtype).removeprefix("torch.")
        device = "cuda" if pool.num_gpus else "cpu"

        system, path = file_system(shards.catalogue.place)
        counts = (
            ray.data.read_parquet(path, filesystem=system)
            .select_columns(["path"])
            .map_batches(
                numbered_table,
                batch_format="pyarrow",
                fn_args=(shards.images, shards.count, missing, without),
            )
            .groupby("shard", num_partitions=min(len(missing), _GROUPS_EACH * actors))
            .map_groups(
                _Actor,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
                fn_constructor_args=([learned], shards, how, device, dtype),
                num_cpus=1,
                num_gpus=pool.num_gpus or None,
            )
        )
        with _one_sentence(ray):
            for row in counts.iter_rows():
                yield row["images"], row["failed"]


def each_by_ray(work: Callable[[int], None], numbers: Iterable[int], pool: Pool) -> None:
    """Call a function of the package with each number, side by side on a cluster."""
    with connected(pool) as ray, _one_sentence(ray):
        task = ray.remote(num_cpus=1)(_without_result)
        shared = ray.put(work)
        ray.get([task.remote(shared, number) for number in numbers])


def _without_result(work: Callable[[int], None], number: int) -> None:
    work(number)


class _Actor:
    """A process of the cluster with a model of its own."""

    def __init__(
        self, learned: list[Any], shards: Shards, how: How, device: str, dtype: str
    ) -> None:
        import ray  # noqa: PLC0415
        import torch  # noqa: PLC0415

        torch.set_num_threads(1)
        with TemporaryDirectory(prefix="piclip-") as folder:
            for name, content in ray.get(learned[0]).items():
                (Path(folder) / name).write_bytes(content)
            segmenter = FewShotSegmenter.load(folder, device=device, dtype=dtype)
        self.worker = Worker(segmenter, shards, how)

    def __call__(self, group: Any) -> Any:  # noqa: ANN401  (Arrow tables)
        """The paths of a shard in, its counts out."""
        images, failed = self.worker.work(group["shard"][0].as_py(), group["path"].to_pylist())
        return arrow().table({"images": [images], "failed": [failed]})


def _room(resources: Mapping[str, float], num_gpus: float) -> int:
    room = resources.get("GPU", 0) / num_gpus if num_gpus else resources.get("CPU", 1)
    if room < 1:
        raise UsageError(f"The cluster has no {num_gpus:g} GPUs for an actor; give fewer.")
    return int(room)


@contextmanager
def connected(pool: Pool) -> Iterator[Any]:
    """Ray, connected for the block unless it was before, so that blocks within share this one.

    A UsageError if it is not installed, a PiclipError if the cluster is not there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # people see a progress bar
    with needs_extra("ray", "Working on a cluster"):
        import ray  # noqa: PLC0415
        import ray.data  # noqa: PLC0415
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    address = pool.address or os.environ.get("RAY_ADDRESS")
    # Who sorts the paths needs a processor beside those of the actors.
    own: dict[str, Any] = {"num_cpus": 1 + pool.actors} if pool.actors else {}
    options = {"address": address} if address else {"address": "local", **own}
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise PiclipError(
            f"Ray cannot be reached or started ({said}); check --ray-address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _one_sentence(ray: Any) -> Iterator[None]:  # noqa: ANN401
    """Turn what Ray makes of an actor's error back into that error, others into a sentence."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PiclipError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        said = str(error).strip().splitlines()[-1]
        raise PiclipError(
            f"Ray ended the job ({said}); run the same command again: what is finished is kept."
        ) from error
