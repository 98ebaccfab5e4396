"""Annotate a million images and more, on this computer or on a Ray cluster.

Every image belongs to a shard, by a hash of its path. A shard is worked on as a whole and written
as one Parquet file, which appears when it is finished: a shard that is there is done. So a job that
was interrupted goes on where it was, with any number of workers, and no image is there twice.

`catalogue` lists the images, `shards` is the job's folder, `worker` makes a shard, `ray_engine` has
actors do that, and `job.annotate` is all of it:

    from piclip import FewShotSegmenter
    from piclip.distributed import annotate

    segmenter = FewShotSegmenter.load("my-animals")
    done = annotate(segmenter, "s3://bucket/photos", "s3://bucket/found", engine="ray", num_gpus=1)
    print(done.images, done.failed)
    for proposal in done.shards.proposals():
        print(proposal.file.path, [region.score for region in proposal.file.regions])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piclip.distributed.job import Annotated, annotate

__all__ = ["Annotated", "annotate"]


def __getattr__(name: str) -> object:
    # Processes that only sort paths import this package, too, and have no need of torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from piclip.distributed import job  # noqa: PLC0415

    return getattr(job, name)
