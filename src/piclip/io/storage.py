"""Files behind a URL (``s3://``, ``gs://``, ``memory://`` ...) and on this computer, by fsspec."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from piclip.errors import ImageError, OutputError, PiclipError, UsageError
from piclip.io.decoding import reason
from piclip.io.outputs import atomic_path

_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https", "memory", "file")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")
_MOST_BYTES = 2_000_000_000
"""Of a file that is fetched; none of the readers takes more."""
_PIECE = 1 << 20


def is_url(place: str) -> bool:
    """Whether a place is a URL, ``file://`` included, and no plain path."""
    return _URL.match(place) is not None


def local_path(place: str) -> str | None:
    """The path of a place on this computer; None where it is elsewhere."""
    return (
        place.removeprefix("file://") if place.startswith("file://") or not is_url(place) else None
    )


def absolute(place: str) -> str:
    """A place that means the same in every process: a URL, or an absolute path."""
    path = local_path(place)
    return place.rstrip("/") if path is None else os.path.abspath(path)  # noqa: PTH100


def joined(folder: str, path: str) -> str:
    """A path below a folder; a URL or an absolute path stands for itself."""
    if is_url(path) or path.startswith("/"):
        return local_path(path) or path
    return f"{folder}/{path}"


def file_system(place: str) -> tuple[Any, str]:
    """The fsspec file system of a place and its path there; UsageError if there is none for it."""
    if (own := local_path(place)) is not None:
        return fsspec.filesystem("file"), os.path.abspath(own)  # noqa: PTH100
    scheme = place.partition("://")[0]
    if scheme not in _SCHEMES or "::" in place:
        raise UsageError(f"{place}: only URLs of {', '.join(_SCHEMES)} can be read.")
    try:
        system, path = fsspec.url_to_fs(place)
    except ImportError as error:
        extra = "pip install 'piclip[s3]'" if scheme.startswith("s3") else f"{error}"
        raise UsageError(f"{place}: a library for {scheme}:// is missing; {extra}.") from error
    return system, str(path)


def exists(place: str) -> bool:
    """Whether a file or folder is there (UsageError if that cannot be told)."""
    with _reading(place, UsageError):
        system, path = file_system(place)
        return bool(system.exists(path))


def is_file(place: str) -> bool:
    """Whether a file is there (UsageError if that cannot be told)."""
    with _reading(place, UsageError):
        system, path = file_system(place)
        return bool(system.isfile(path))


def names(folder: str) -> list[str]:
    """The names of the files and folders in a folder; none if it is not there (UsageError)."""
    with _reading(folder, UsageError):
        system, path = file_system(folder)
        system.invalidate_cache()
        if not system.isdir(path):
            return []
        return sorted(PurePosixPath(entry).name for entry in system.ls(path, detail=False))


def files_below(folder: str) -> Iterator[str]:
    """The files of a folder and its subfolders, relative to it, folder by folder (UsageError)."""
    with _reading(folder, UsageError):
        system, path = file_system(folder)
        # On this computer a link may lead to a folder that it is in; that one is not followed.
        walked = os.walk(path) if local_path(folder) is not None else system.walk(path)
        for place, folders, found in walked:
            folders.sort()
            below = PurePosixPath(place).relative_to(PurePosixPath(path))
            for name in sorted(found):
                yield (below / name).as_posix()


def fetch(place: str, to: Path) -> None:
    """Copy a file to this computer; ImageError if it cannot be read, or has more than 2 GB."""
    with _reading(place, ImageError):
        system, path = file_system(place)
        to.parent.mkdir(parents=True, exist_ok=True)
        with system.open(path, "rb") as source, to.open("wb") as copy:
            taken = 0
            while piece := source.read(_PIECE):
                taken += len(piece)
                if taken > _MOST_BYTES:
                    raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
                copy.write(piece)


def fetch_all(place: str, to: Path) -> Path:
    """Copy a file, or a folder and its subfolders; gives where it is now.

    UsageError if nothing is there, ImageError if a file cannot be read.
    """
    target = to / PurePosixPath(place).name
    if is_file(place):
        fetch(place, target)
        return target
    for path in files_below(place):
        fetch(f"{place}/{path}", target / path)
    if not target.is_dir():
        raise UsageError(f"{place}: there is no such file, nor a folder with files; check the URL.")
    return target


@contextmanager
def new_file(place: str) -> Iterator[Path]:
    """Give a path to write to, and put the file at its place once all went well (OutputError).

    Nobody sees half a file: it is written, or sent, under another name, which begins with a dot.
    """
    if (own := local_path(place)) is not None:
        with atomic_path(own) as temporary:
            yield temporary
        return
    with scratch_file(PurePosixPath(place).name) as temporary:
        yield temporary
        with _reading(place, OutputError):
            system, path = file_system(place)
            target = PurePosixPath(path)
            sent = str(target.with_name(f".{secrets.token_hex(6)}-{target.name}"))
            system.makedirs(str(target.parent), exist_ok=True)
            system.put_file(str(temporary), sent)
            # Not mv, which takes ?, * and [ in a name for a pattern.
            system.cp_file(sent, path)
            system.rm_file(sent)


@contextmanager
def scratch_file(name: str) -> Iterator[Path]:
    """A path of this name in a temporary folder, which is removed at the end."""
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    with TemporaryDirectory(prefix="piclip-") as folder:
        yield Path(folder) / name


def put_all(source: Path, place: str) -> None:
    """Put a file, or the files of a folder and its subfolders, at a place (OutputError)."""
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if file.is_file():
            below = file.relative_to(source).as_posix()
            with new_file(place if file == source else f"{place}/{below}") as copy:
                shutil.copyfile(file, copy)


def remove(place: str) -> None:
    """Remove a file or a folder with all that is in it, if it is there (OutputError)."""
    with _reading(place, OutputError):
        system, path = file_system(place)
        if system.exists(path):
            # Elsewhere than here ?, * and [ in a name are taken for a pattern.
            own = local_path(place) is not None
            system.rm(path if own else glob.escape(path), recursive=True)


@contextmanager
def _reading(place: str, kind: Callable[[str], PiclipError]) -> Iterator[None]:
    """Turn whatever the library of a storage raises in the block into one sentence."""
    try:
        yield
    except PiclipError:
        raise
    except Exception as error:  # each library has its own errors
        said = " ".join(reason(error).split())
        raise kind(f"{place}: {said}; check the address and that you may use it.") from error
