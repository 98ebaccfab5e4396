"""What is finished, one line per image, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import os
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piclip.annotation.queries import Stamp, path_hash
from piclip.errors import OutputError, UsageError
from piclip.io.decoding import reason
from piclip.io.documents import check_regular
from piclip.io.outputs import atomic_path

if TYPE_CHECKING:
    from typing import Self

_FORMAT = 3
ADVICE = "choose another --output, or add --overwrite to start over"
_DAMAGE = (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError)
"""What reading a file that is no journal ends with."""

_SYNC_SECONDS = 1.0  # what a power cut may cost, at most; a kill costs nothing that was reported


@dataclass(frozen=True)
class Entry:
    """What a journal says about an image."""

    path: str  # as in Query
    stamp: Stamp | None  # of its file before it was read; None where it was not there
    found: dict[str, Any] = field(default_factory=dict)  # as JSON reads it back
    reason: str | None = None  # why nothing was found, one sentence
    files: tuple[Path, ...] = field(default=(), compare=False)  # written for it; not kept here


class Journal:
    """Lines ``checksum TAB head TAB body``, only ever appended; the first holds the settings.

    The checksum is the CRC-32 of what follows it. The head says which image it is, its stamp and
    whether something was found; only it is read when a journal is taken up. Head and body are JSON
    in ASCII. Of two lines of an image the later counts. What follows the last whole line, since the
    computer failed or the disk was full, is dropped.

    In memory is, for each image, 8 bytes of its path's hash and where its line begins, some 200
    bytes in all. Opened for writing until it is closed; whoever writes owns the output, see
    `piclip.io.ownership`.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
        """Takes up the journal of an earlier run with these settings, or starts one.

        Raises:
            UsageError: The file is no journal, is damaged, or belongs to other settings.
            OutputError: The file cannot be written.
        """
        self.path = path
        self.settings = settings
        self._numbers: dict[int, int] = {}
        self._places, self._sizes, self._times = array("q"), array("q"), array("q")
        self._failed: set[int] = set()
        self._unsynced: list[Path] = []
        if path.exists() and not overwrite:
            self._take_up()
        else:
            with atomic_path(path) as temporary:
                temporary.write_bytes(_line({"piclip": _FORMAT}, {"settings": settings}))
        try:
            # Unbuffered: what a full disk refuses may not come back when the file is closed.
            self._lines = path.open("ab", buffering=0)
            self._reading, self._next = path.open("rb"), 0
        except OSError as error:
            raise self._unwritable(reason(error)) from error
        self._synced = time.monotonic()
        self._syncer = ThreadPoolExecutor(1)
        self._syncing = self._syncer.submit(_sync, [], self._lines.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of images with a line."""
        return len(self._numbers)

    def __contains__(self, path: str) -> bool:
        """Whether an image has a line."""
        return path_hash(path) in self._numbers

    def has(self, path: str, stamp: Stamp) -> bool:
        """Whether something was found in this very image."""
        number = self._numbers.get(path_hash(path))
        return (
            number is not None
            and number not in self._failed
            and (self._sizes[number], self._times[number]) == stamp
        )

    def append(self, entry: Entry) -> None:
        """Note an image; a kill from now on does not lose it (OutputError if that fails)."""
        head = [entry.path, entry.stamp, entry.reason]
        try:
            if os.stat(self.path).st_ino != os.fstat(self._lines.fileno()).st_ino:  # noqa: PTH116
                raise FileNotFoundError
            place = self._lines.seek(0, os.SEEK_END)
            self._write(_line(head, entry.found), place)
            self._unsynced += entry.files
            if self._syncing.done() and time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except FileNotFoundError as error:
            raise OutputError(
                f"{self.path} was removed or its disk taken away while this ran; run the same "
                f"command again when the folder is back."
            ) from error
        except OSError as error:
            raise self._unwritable(reason(error)) from error
        self._note(entry.path, entry.stamp, place, failed=entry.reason is not None)

    def read(self, path: str) -> Entry:
        """What the journal says about an image (KeyError if that is nothing)."""
        return self._at(self._places[self._numbers[path_hash(path)]])

    def reason(self, path: str) -> str | None:
        """Why nothing was found in an image, if that is so."""
        return self.read(path).reason if path in self else None

    def entries(self) -> Iterator[Entry]:
        """What the journal says about each image, in the order in which they first came."""
        return map(self._at, self._places)

    def close(self) -> None:
        """End writing and reading."""
        if self._lines.closed:
            return
        try:
            self._sync()
            self._syncing.result()
        except OSError as error:
            raise self._unwritable(reason(error)) from error
        finally:
            self._syncer.shutdown()
            self._lines.close()
            self._reading.close()

    def _sync(self) -> None:
        """Begin to wait, in a thread, until what was noted and its files are on the disk."""
        self._syncing.result()  # its error, if it had one
        files, self._unsynced, self._synced = self._unsynced, [], time.monotonic()
        self._syncing = self._syncer.submit(_sync, files, self._lines.fileno())

    def _at(self, place: int) -> Entry:
        if place != self._next:  # a seek throws away what was read ahead
            self._reading.seek(place)
        line = self._reading.readline()
        self._next = place + len(line)
        head, body = _parts(line)
        path, stamp, failed = json.loads(head)
        return Entry(path, stamp and (stamp[0], stamp[1]), json.loads(body), failed)

    def _note(self, path: str, stamp: Stamp | None, place: int, *, failed: bool) -> None:
        size, changed = stamp or (-1, -1)
        number = self._numbers.setdefault(path_hash(path), len(self._places))
        if number == len(self._places):
            self._places.append(place)
            self._sizes.append(size)
            self._times.append(changed)
        else:
            self._places[number], self._sizes[number], self._times[number] = place, size, changed
        (self._failed.add if failed else self._failed.discard)(number)

    def _take_up(self) -> None:
        try:
            check_regular(self.path)
            with self.path.open("r+b") as lines:
                head, body = _parts(lines.readline())
                if json.loads(head)["piclip"] != _FORMAT:
                    raise ValueError("another format")
                check_settings(self.path, self.settings, dict(json.loads(body)["settings"]))
                place = lines.tell()
                for line in lines:
                    try:
                        head, _ = _parts(line)
                    except ValueError:
                        break
                    path, stamp, failed = json.loads(head)
                    self._note(path, stamp, place, failed=failed is not None)
                    place += len(line)
                lines.seek(place)
                lines.readline()
                if any(_is_whole(line) for line in lines):
                    raise ValueError("whole lines follow a damaged one")
                lines.truncate(place)
        except UsageError:
            raise
        except _DAMAGE as error:
            raise UsageError(
                f"{self.path} is no journal of an earlier run, or is damaged; {ADVICE}."
            ) from error

    def _write(self, line: bytes, place: int) -> None:
        written = 0
        try:
            while written < len(line):
                written += self._lines.write(line[written:])
        except OSError:
            with suppress(OSError):  # half a line is dropped when the journal is taken up, too
                os.ftruncate(self._lines.fileno(), place)
            raise

    def _unwritable(self, why: str) -> OutputError:
        return OutputError(
            f"{self.path} cannot be written ({why}); free some space and run the same command "
            f"again: what is finished is kept."
        )


def check_settings(place: object, now: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Refuse to go on at a place with other settings (UsageError that names them)."""
    changed = [key for key in now if earlier.get(key) != now[key]]
    if changed:
        raise UsageError(
            f"{place} belongs to a run with other settings ({', '.join(changed)}); {ADVICE}."
        )


def _sync(files: Iterable[Path], lines: int) -> None:
    for file in files:
        with suppress(FileNotFoundError), file.open("rb") as written:  # removed: that will be found
            os.fsync(written.fileno())
    os.fsync(lines)


def _line(head: object, body: object) -> bytes:
    said = b"\t".join(json.dumps(part, allow_nan=False).encode("ascii") for part in (head, body))
    return b"%08x\t%b\n" % (zlib.crc32(said), said)


def _parts(line: bytes) -> tuple[str, str]:
    """Head and body of a line (ValueError if it is not whole)."""
    checksum, _, said = line.removesuffix(b"\n").partition(b"\t")
    if not line.endswith(b"\n") or b"%08x" % zlib.crc32(said) != checksum:
        raise ValueError("a line is not whole")
    head, _, body = said.decode("ascii").partition("\t")
    return head, body


def _is_whole(line: bytes) -> bool:
    try:
        _parts(line)
    except ValueError:
        return False
    return True
