"""The images to annotate, as few bytes each as a million of them ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, count
from pathlib import Path
from typing import TypeAlias

from piclip.errors import ImageError, UsageError
from piclip.formats.labels import LabelledFile, Labels
from piclip.io.decoding import reason
from piclip.io.images import list_images, stem_of
from piclip.results import OVERLAYS

Stamp: TypeAlias = tuple[int, int]
"""Bytes and time of change (ns) of an image file: tells a changed file from the one annotated."""


_LONGEST = 251  # bytes of a stem: with .png these are the 255 that file systems take
_SHORT = 60  # characters, of four bytes at most


@dataclass(frozen=True, slots=True)
class Query:
    """An image to annotate."""

    path: str  # what the journal and the outputs call it
    file: str  # where it lies
    name: str = ""  # the stem of files that are written for it alone
    known: LabelledFile | None = None  # what the labels say about it


@dataclass(frozen=True)
class Queries:
    """Images whose `Query` is made when it is asked for; what is special about some, by path."""

    paths: Sequence[str]  # each once, in order
    root: str = ""  # below which they lie; "" where the paths say all
    files: Mapping[str, str] = field(default_factory=dict)  # that lie elsewhere than the path says
    names: Mapping[str, str] = field(default_factory=dict)  # stems that are not the image's own
    known: Mapping[str, LabelledFile] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Query]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> Query:
        path = self.paths[number]
        return Query(
            path,
            self.files.get(path) or os.path.join(self.root, path),  # noqa: PTH118 - a str is smaller
            self.names.get(path) or stem_of(path),
            self.known.get(path),
        )


@dataclass(frozen=True)
class Failure:
    """An image for which nothing could be found out, and the reason in one sentence."""

    path: str
    reason: str

    @property
    def with_name(self) -> str:
        """The reason, after the image's name if that is not in it."""
        name = os.path.basename(self.path)  # noqa: PTH119
        return self.reason if name in self.reason else f"{name}: {self.reason}"


def stamp_of(file: str | Path) -> Stamp:
    """The stamp of an image file (ImageError if it is not there)."""
    try:
        status = os.stat(file)  # noqa: PTH116 - a Path takes as long to make as to ask
    except (OSError, ValueError) as error:
        raise ImageError(f"{file}: {reason(error)}; check the path.") from error
    return status.st_size, status.st_mtime_ns


def path_hash(path: str) -> int:
    """64 bits, the same everywhere; of a million, two share theirs once in 37 million runs."""
    data = path.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def query_files(queries: Iterable[Path], output: Path, labelled: Iterable[Path]) -> list[str]:
    """The absolute paths of the images to segment (files and folders), each once, in order.

    Raises:
        ImageError: A file or folder is not there, or a folder has no images.
        UsageError: One of them, or of the labelled files, lies where the results go.
    """
    outputs = {output.resolve(), (output / OVERLAYS).resolve()}
    found: dict[str, None] = {}
    for query in queries:
        for file in list_images(query):
            found[os.path.abspath(file)] = None  # noqa: PTH100 - keeps links, unlike Path.resolve
    folders = {os.path.dirname(file): file for file in found}  # noqa: PTH120
    read = [*map(Path, folders.values()), *labelled]
    for path in read:
        if path.resolve().parent in outputs:
            raise UsageError(
                f"The results would go to {output}, where {path.name}, one of the files to "
                f"read, lies and might be overwritten; choose another --output."
            )
    return list(found)


def find_queries(labels: Labels, image_root: str | Path) -> tuple[Queries, list[str]]:
    """The images that have no label, as `Labels.unlabelled`, and paths of those that are not there.

    The labels list the latter without a usable label.
    """
    root = Path(image_root)
    waiting, missing = labels.find_unlabelled(root)
    listed = {path: file for path, file in waiting.items() if file is not None}
    paths = [
        listed[path].path if path in listed else path.relative_to(root).as_posix()
        for path in waiting
    ]
    files = {file.path: str(path) for path, file in listed.items()}
    known = {file.path: file for file in listed.values()}
    return Queries(paths, str(root), files, known=known), [file.path for file in missing]


def own_names(
    paths: Sequence[str], earlier: Callable[[str], str | None], taken: Iterable[str]
) -> dict[str, str]:
    """Choose the stem of each image's outputs, no two alike whatever the case.

    An image keeps what ``earlier`` runs gave it; ``taken`` are the stems of all their images.

    Returns:
        The stems by path, but those that are the image's own: several images of one stem get
        their whole names, ``herd.jpg``, and ``herd.jpg-2`` if that is not enough, or too long.
    """
    # Hashes, not strings: a million of these are in memory at once.
    used = {hash(stem.casefold()) for stem in taken}
    once: set[int] = set()
    twice: set[int] = set()
    for path in paths:
        folded = hash(stem_of(path).casefold())
        (twice if folded in once else once).add(folded)

    def is_free(name: str) -> bool:
        folded = hash(name.casefold())
        return folded not in used and folded not in once and _fits(name)

    names = {}
    for path in paths:
        stem, own = stem_of(path), os.path.basename(path)  # noqa: PTH119
        name = earlier(path)
        if name is None:
            folded = hash(stem.casefold())
            if folded not in twice and folded not in used and _fits(stem):
                continue
            candidates = chain([own], (f"{own[:_SHORT]}-{number}" for number in count(2)))
            name = next(filter(is_free, candidates))
            used.add(hash(name.casefold()))
        if name != stem:
            names[path] = name
    return names


def _fits(stem: str) -> bool:
    return len(os.fsencode(stem)) <= _LONGEST
