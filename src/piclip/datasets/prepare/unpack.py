"""Unpack archives without trusting them: nothing is written outside of the folder."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from piclip.errors import PiclipError
from piclip.io.outputs import Progress, atomic_path, ensure_folder

_CHUNK = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    """A regular file of an archive."""

    name: str
    size: int
    position: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> int:
    """Unpack the regular files of a .zip, .tar or .tgz archive.

    Files of the right size that are already there are kept, so an interrupted run can be
    repeated. Links and devices, which data sets do not need, are left out.

    Args:
        archive: The archive.
        folder: Where to unpack; made if need be.
        progress: Told how far the archive has been read.

    Returns:
        Number of files in the archive.

    Raises:
        PiclipError: The archive is damaged, or a name in it leads out of the folder.
        OutputError: A file cannot be written.
    """
    ensure_folder(folder)
    total = archive.stat().st_size
    count = 0
    for member in _members(archive):
        target = folder / _inside(member.name, archive)
        if not (target.is_file() and target.stat().st_size == member.size):
            with atomic_path(target) as temporary, temporary.open("wb") as file:
                for chunk in _chunks(member, archive):
                    file.write(chunk)
        count += 1
        if progress is not None:
            progress(min(member.position, total), total)
    return count


def _members(archive: Path) -> Iterator[_Member]:
    try:
        if zipfile.is_zipfile(archive):
            yield from _zip_members(archive)
        else:
            yield from _tar_members(archive)
    except _DAMAGE as error:
        raise _damaged(archive, error) from error


def _zip_members(archive: Path) -> Iterator[_Member]:
    position = 0
    with zipfile.ZipFile(archive) as package:
        for entry in package.infolist():
            position += entry.compress_size
            if not entry.is_dir():

                def opened(entry: zipfile.ZipInfo = entry) -> IO[bytes]:
                    return package.open(entry)

                yield _Member(entry.filename, entry.file_size, position, opened)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as package:
        for entry in package:
            if entry.isreg():

                def opened(entry: tarfile.TarInfo = entry) -> IO[bytes]:
                    file = package.extractfile(entry)
                    if file is None:
                        raise tarfile.ReadError(f"{entry.name} cannot be read")
                    return file

                yield _Member(entry.name, entry.size, raw.tell(), opened)


def _chunks(member: _Member, archive: Path) -> Iterator[bytes]:
    """The content of a file; damage is told apart from a full disk by happening here."""
    left = member.size
    try:
        with member.open() as source:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                yield chunk
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    if left:
        raise _damaged(archive, EOFError(f"{member.name} ends too early"))


def _inside(name: str, archive: Path) -> Path:
    """The member's path, relative to the folder.

    Raises:
        PiclipError: It is absolute or climbs out of the folder.
    """
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise PiclipError(
            f"{archive} holds the file {name!r}, which would be written outside of the folder; "
            f"do not use this archive."
        )
    return Path(path)


def _damaged(archive: Path, error: BaseException) -> PiclipError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return PiclipError(
        f"{archive} is damaged ({reason}); delete it and run the same command again."
    )
