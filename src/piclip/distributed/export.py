"""What a job's shards hold, as label files: folders shard by shard, side by side, and single files.

A folder of label files (masks, voc, yolo, labelme) has files per image, so whoever has a shard
writes its part. A file of all images (coco, labelstudio) is written by one process, in memory that
does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from piclip.annotation.export import ONE_FILE, missing_masks, write_files, write_image_files
from piclip.distributed.ray_engine import Pool, each_by_ray
from piclip.distributed.shards import Shards
from piclip.formats import yolo
from piclip.formats.labels import LabelledFile, Labels, label_paths
from piclip.io.storage import local_path, names, put_all, remove


@dataclass(frozen=True)
class Export:
    """Writes shards in a label format; the same files again, however often it is called."""

    shards: Shards
    labels: Labels  # that were read, for classes and numbers of classes and images
    output: str  # the file or folder, a path or URL
    format: str  # a name of piclip.formats.FORMATS
    keep: Callable[[LabelledFile], LabelledFile]  # what becomes of the regions of an image before
    simplify: float = 0.0  # as write_labels takes it
    replaces: bool = False  # may an earlier run have written something there? write finds out

    def write(self, pool: Pool | None = None) -> None:
        """Write all shards; tasks of Ray write folders of label files if there is a pool.

        A UsageError if two images would have one label file, or a shard is damaged.
        """
        if self.format in ONE_FILE:
            with self._place() as place:
                write_files(self._kept, self.labels, place, self.format, simplify=self.simplify)
            return
        rows = self.shards.rows(["path", "reason"])
        paths = [_below(row["path"]) for row in rows if row["reason"] is None]
        label_paths(paths, "")
        done = self.shards.done()
        # Whoever writes a part of a folder needs none of the images that were labelled before.
        part = replace(
            self, labels=replace(self.labels, images=()), replaces=bool(names(self.output))
        )
        if pool is None:
            for number in done:
                part.write_part(number)
        else:
            each_by_ray(part.write_part, done, pool)
        if self.format == "yolo":
            with self._place() as place:
                yolo.write_lists(self.labels.class_names, paths, place)

    def write_part(self, number: int) -> None:
        """Write the files of a shard's images (OutputError if that fails)."""

        def files() -> Iterator[LabelledFile]:
            return (replace(file, path=_below(file.path)) for file in self._kept({number}))

        with self._place() as place:
            write_image_files(files(), self.labels, place, self.format, self.simplify)
        if self.replaces and self.format == "masks" and local_path(self.output) is None:
            for path in missing_masks(files(), self.labels.class_names):
                remove(f"{self.output}/{path}")

    def _kept(self, numbers: Collection[int] | None = None) -> Iterator[LabelledFile]:
        return (self.keep(proposal.file) for proposal in self.shards.proposals(numbers))

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Where to write on this computer; what belongs elsewhere is put there afterwards."""
        if (own := local_path(self.output)) is not None:
            Path(own).parent.mkdir(parents=True, exist_ok=True)
            yield Path(own)
            return
        with TemporaryDirectory(prefix="piclip-") as scratch:
            place = Path(scratch) / PurePosixPath(self.output).name
            yield place
            put_all(place, self.output)


def _below(path: str) -> str:
    """The path of an image so that its label file stays below a folder of them."""
    plain = path.replace("\\", "/")
    parts = (plain.partition("://")[2] or plain).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))
