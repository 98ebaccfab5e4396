"""The folder of a job: its settings, its images, and one Parquet file for each finished shard."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piclip.annotation.journal import ADVICE, check_settings
from piclip.annotation.parquet import Row, counts_of, read_rows
from piclip.annotation.queries import Failure
from piclip.annotation.sinks import Proposal
from piclip.distributed.catalogue import Catalogue, root_of, write_catalogue
from piclip.errors import UsageError
from piclip.formats.label_files import load_json
from piclip.io.storage import fetch, file_system, is_file, names, new_file, remove, scratch_file

_MANIFEST, _CATALOGUE, _SHARDS = "job.json", "images.parquet", "shards"
_OWN = frozenset({_CATALOGUE, _SHARDS, ".piclip.lock"})
_IMAGES_EACH, _MOST_BY_ITSELF = 1000, 100_000
_NAME = re.compile(r"part-(\d{6})\.parquet")
MOST_SHARDS = 1_000_000  # as many as their names have numbers

_AT_ONCE = 32


@dataclass(frozen=True)
class Shards:
    """What a job has found so far."""

    folder: str  # of job.json, and shards/part-NUMBER.parquet, see piclip.annotation.parquet
    images: str  # the folder below which the images lie
    catalogue: Catalogue
    count: int  # of shards; one without images has no file

    @classmethod
    def open(
        cls,
        folder: str,
        images: str,
        settings: dict[str, Any],
        *,
        count: int | None = None,
        overwrite: bool = False,
    ) -> Shards:
        """Takes up the job in a folder, or starts one; see `piclip.distributed.annotate`.

        Folder and images are as `piclip.io.storage.absolute` gives them, settings as JSON reads
        them back.

        Raises:
            UsageError: The folder holds something else, or a job with other settings.
            OutputError: It cannot be written.
        """
        manifest, catalogue = f"{folder}/{_MANIFEST}", f"{folder}/{_CATALOGUE}"
        root = root_of(images)
        if is_file(manifest) and not overwrite:
            earlier = _read_manifest(manifest)
            listed = Catalogue.at(earlier["catalogue"])
            fixed = {"images": images, "rows": listed.rows, "bytes": listed.size}
            if count is not None:
                fixed["shards"] = count
            check_settings(manifest, fixed | settings, earlier | earlier["settings"])
            return cls(folder, root, listed, earlier["shards"])
        if overwrite:
            for name in (_MANIFEST, _SHARDS, _CATALOGUE):
                remove(f"{folder}/{name}")
        elif foreign := set(names(folder)) - _OWN:
            raise UsageError(
                f"{folder} holds {min(foreign)}, which no run of piclip annotate has made; "
                f"{ADVICE}."
            )
        if images.endswith(".parquet"):
            catalogue = images
        else:
            write_catalogue(images, catalogue)
        listed = Catalogue.at(catalogue)
        if count is None:
            count = min(max(1, -(-listed.rows // _IMAGES_EACH)), _MOST_BY_ITSELF)
        said = {
            "images": images,
            "catalogue": catalogue,
            "rows": listed.rows,
            "bytes": listed.size,
            "shards": count,
            "settings": settings,
        }
        with new_file(manifest) as file:
            file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
        return cls(folder, root, listed, count)

    def place(self, number: int) -> str:
        """Where a shard is, once it is done."""
        return f"{self.folder}/{_SHARDS}/part-{number:06}.parquet"

    def done(self) -> set[int]:
        """The numbers of the shards that are there."""
        found = map(_NAME.fullmatch, names(f"{self.folder}/{_SHARDS}"))
        return {int(match[1]) for match in found if match}

    def counts(self, numbers: Iterable[int]) -> tuple[int, int]:
        """How many images are in these shards, and how many of them failed."""

        def counts(number: int) -> tuple[int, int]:
            with self._opened(number) as file:
                return counts_of(file)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            pairs = list(pool.map(counts, numbers))
        return sum(images for images, _ in pairs), sum(failed for _, failed in pairs)

    def rows(
        self, columns: Sequence[str] | None = None, numbers: Collection[int] | None = None
    ) -> Iterator[Row]:
        """What was found, by default in all shards that are done; shard by shard."""
        for number in sorted(self.done() if numbers is None else numbers):
            with self._opened(number) as file:
                yield from read_rows(file, columns)

    def proposals(self, numbers: Collection[int] | None = None) -> Iterator[Proposal]:
        """The images in which something could be found out, with their regions."""
        rows = self.rows(None, numbers)
        return (Proposal.of(row["path"], row) for row in rows if row["reason"] is None)

    def failures(self) -> Iterator[Failure]:
        """The others, with the reason."""
        for row in self.rows(["path", "reason"]):
            if row["reason"] is not None:
                yield Failure(row["path"], row["reason"])

    def tidy(self) -> None:
        """Remove what killed processes left half written; nobody may write meanwhile."""
        for name in names(f"{self.folder}/{_SHARDS}"):
            if name.startswith("."):
                remove(f"{self.folder}/{_SHARDS}/{name}")

    def _opened(self, number: int) -> Any:  # noqa: ANN401  (a file of fsspec)
        system, path = file_system(self.place(number))
        return system.open(path, "rb")


def _read_manifest(place: str) -> dict[str, Any]:
    with scratch_file(Path(place).name) as copy:
        fetch(place, copy)
        said = load_json(copy)
    kinds = {"images": str, "catalogue": str, "rows": int, "bytes": int, "shards": int}
    if not (
        isinstance(said, dict)
        and all(isinstance(said.get(key), kind) for key, kind in kinds.items())
        and isinstance(said.get("settings"), dict)
        and said["shards"] > 0
    ):
        raise UsageError(f"{place} is no record of a job of piclip annotate; {ADVICE}.")
    return said
