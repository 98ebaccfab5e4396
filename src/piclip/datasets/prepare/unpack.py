"""Unpack archives without trusting them: nothing is written outside of the folder."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from piclip.errors import PiclipError
from piclip.io.outputs import Progress, atomic_path, ensure_folder

_DAMAGE: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # zipfile's, of members with a password or packed in unknown ways
)


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> int:
    """Unpack the regular files of a .zip, .tar or .tgz archive into a folder; gives their number.

    Files of the right size that are already there are kept, so an interrupted run can be
    repeated; that, and that each file is there in full or not at all, is what the standard
    library's ``extractall`` does not do. Links and devices are left out. ``progress`` is told how
    far the archive has been read.

    Raises:
        PiclipError: The archive is damaged, or a name in it leads out of the folder.
        OutputError: A file cannot be written.
    """
    ensure_folder(folder)
    total = archive.stat().st_size
    count = 0
    with _damage_of(archive, OSError), archive.open("rb") as raw:
        for name, size, opened in _files(raw):
            target = folder / _inside(name, archive)
            if not (target.is_file() and target.stat().st_size == size):
                # Damage is told apart inside, since a full disk is an OSError as well.
                with atomic_path(target) as temporary, _damage_of(archive):
                    source = opened()
                    with temporary.open("wb") as file:
                        if source is not None:
                            shutil.copyfileobj(source, file)
                if progress is not None:
                    progress(min(raw.tell(), total), total)
            count += 1
    return count


def _files(raw: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]:
    """Name, size in bytes and how to read each regular file of an archive."""
    if zipfile.is_zipfile(raw):
        with zipfile.ZipFile(raw) as package:
            for entry in package.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(package.open, entry)
    else:
        raw.seek(0)
        with tarfile.open(fileobj=raw, mode="r:*") as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, member.size, partial(tar.extractfile, member)


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


@contextmanager
def _damage_of(archive: Path, *more: type[Exception]) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, *more) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PiclipError(
            f"{archive} is damaged ({reason}); delete it and run the same command again."
        ) from error
