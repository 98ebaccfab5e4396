"""One run at a time writes an output."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from piclip.errors import OutputError
from piclip.io.outputs import advice_for, ensure_folder

_LONGEST = 300


@contextmanager
def owned(output: Path, lock: Path) -> Iterator[None]:
    """Own an output while the block lasts.

    The lock is the system's (flock): it ends with the process, however that ends, so that none is
    ever left behind. The lock file says which process on which computer holds it, and is removed at
    the end.

    Raises:
        OutputError: Another process owns the output, or the lock file cannot be made.
    """
    ensure_folder(lock.parent)
    holding = FileLock(lock, timeout=0)
    with advice_for(lock):
        try:
            holding.acquire()
        except Timeout as error:  # an OSError, too
            raise OutputError(
                f"{output} is being written by {_holder(lock)}; wait for its end, or choose "
                f"another --output."
            ) from error
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file
            lock.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # the folder may have been removed
            lock.unlink()
        holding.release()


def _holder(lock: Path) -> str:
    try:
        with lock.open(encoding="utf-8", errors="replace") as written:
            return " ".join(written.read(_LONGEST).split()) or "another process"
    except OSError:
        return "another process"
