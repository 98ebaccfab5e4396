"""Fetch a file over HTTP and go on where a broken connection, or an earlier run, stopped."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from piclip import __version__
from piclip.errors import OutputError, PiclipError
from piclip.io.outputs import Progress

"""Told (bytes done, bytes in all where known)."""

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_PARTIAL, _UNSATISFIABLE = 206, 416


def fetch(
    url: str,
    destination: Path,
    *,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 2.0,
) -> None:
    """Download to a file; bytes that are already in it are not fetched again.

    The server is asked for the rest (HTTP Range); one that cannot do that sends everything anew.
    A connection that breaks is taken up again, and ``attempts`` failures in a row that brought not
    a byte end the download. What has come stays in the file then.

    Args:
        url: http or https.
        destination: The file to make or to continue; its folder is there.
        progress: Told the bytes after each piece.
        attempts: 1 or more.
        pause: Seconds between attempts.

    Raises:
        PiclipError: The server refuses, or the connection keeps breaking.
        OutputError: The file cannot be written.
    """
    failures = 0
    while True:
        before = _size(destination)
        try:
            return _continue(url, destination, progress)
        except HTTPError as error:
            if error.code < 500:
                raise PiclipError(
                    f"{url} cannot be downloaded: the server answers {error.code} "
                    f"({error.reason}); get the file elsewhere and put it beside the others."
                ) from error
            reason = f"the server answers {error.code} ({error.reason})"
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(destination) > before else failures + 1
        if failures >= attempts:
            raise PiclipError(
                f"{url} could not be downloaded ({reason}); {_size(destination)} bytes are kept, "
                f"run the same command again to go on."
            )
        time.sleep(pause)


def _continue(url: str, destination: Path, progress: Progress | None) -> None:
    """One connection: append what it brings.

    Raises:
        OSError, HTTPException: The connection broke.
    """
    have = _size(destination)
    headers = {"User-Agent": f"piclip/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != _UNSATISFIABLE or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # the whole file is there
        destination.unlink()
        raise ConnectionError("the file on the server has become shorter") from error
    with response:
        if response.status != _PARTIAL:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            destination.unlink()
            raise ConnectionError("the server sent another part of the file than asked for")
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with _open(destination, "ab" if have else "wb") as file:
            while data := response.read(_CHUNK):
                _write(file, data, destination)
                have += len(data)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke after {have} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open(path: Path, mode: str) -> IO[bytes]:
    try:
        # Unbuffered, so that a full disk shows where it happens.
        return open(path, mode, buffering=0)  # noqa: PTH123 - closed by the caller
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(file: IO[bytes], data: bytes, path: Path) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} cannot be written ({error.strerror or error}); free some space or choose another "
        f"folder and run the same command again: what has come is kept."
    )
