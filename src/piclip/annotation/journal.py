"""What is finished, one line per image, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from piclip.errors import ImageError, OutputError, UsageError
from piclip.formats.labels import LabelledFile, Region
from piclip.formats.run_length import RunLengthMask
from piclip.io.decoding import reason
from piclip.io.documents import check_regular, parse_json
from piclip.io.outputs import atomic_path

_FORMAT = 1
_ADVICE = "choose another --output, or add --overwrite to start over"

Stamp: TypeAlias = tuple[int, int]
"""Bytes and time of change (ns) of an image file: tells a changed file from the one annotated."""


@dataclass(frozen=True)
class Proposal:
    """What was found in one image.

    Attributes:
        file: The image and its regions, each with its score.
        certainty: See `piclip.annotation.proposals.certainty_of`.
    """

    file: LabelledFile
    certainty: float


def stamp_of(file: Path) -> Stamp:
    """The stamp of an image file (ImageError if it is not there)."""
    try:
        status = file.stat()
    except OSError as error:
        raise ImageError(f"{file}: {reason(error)}; check the path.") from error
    return status.st_size, status.st_mtime_ns


class Journal:
    """JSON lines: first the settings, then one line per finished image, only ever appended.

    In memory is only where each image's line begins. A last line that is cut off, since the
    computer failed or the disk was full, is dropped; of two lines of an image the later counts.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, overwrite: bool = False) -> None:
        """Takes up the journal of an earlier run, or starts one.

        Args:
            path: The file.
            settings: What decides about the proposals, as JSON reads it back.
            overwrite: Start over, whatever is there.

        Raises:
            UsageError: The file is no journal, is damaged, or belongs to other settings.
            OutputError: The file cannot be written.
        """
        self.path = path
        self._places: dict[str, tuple[int, Stamp]] = {}
        if path.exists() and not overwrite:
            self._take_up(settings)
            return
        with atomic_path(path) as temporary:
            temporary.write_bytes(_line({"piclip annotate": _FORMAT, "settings": settings}))

    def has(self, path: str, stamp: Stamp) -> bool:
        """Is this very image finished?"""
        return path in self._places and self._places[path][1] == stamp

    def append(self, proposal: Proposal, stamp: Stamp) -> None:
        """Note that an image is finished (OutputError if that fails)."""
        file = proposal.file
        entry = {
            "image": file.path,
            "id": file.id,
            "source": file.source,
            "size": file.size,
            "regions": [(r.class_name, r.score, r.mask.counts.decode()) for r in file.regions],
            "presence": file.presence,
            "certainty": proposal.certainty,
            "stamp": stamp,
        }
        try:
            with self.path.open("ab") as lines:
                place = lines.tell()
                lines.write(_line(entry))
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({reason(error)}); free some space and run the "
                f"same command again: what is finished is kept."
            ) from error
        self._places[file.path] = place, stamp

    def read(self, path: str) -> Proposal:
        """Read what was found in an image (KeyError if it is not finished)."""
        with self.path.open("rb") as lines:
            lines.seek(self._places[path][0])
            entry = parse_json(lines.readline().decode())
        height, width = entry["size"]
        regions = [
            Region(name, RunLengthMask(height, width, counts.encode()), score=score)
            for name, score, counts in entry["regions"]
        ]
        file = LabelledFile(
            entry["image"],
            height,
            width,
            tuple(regions),
            id=entry["id"],
            source=entry["source"],
            presence=entry.get("presence"),  # earlier journals lack it
        )
        return Proposal(file, entry["certainty"])

    def _take_up(self, settings: dict[str, Any]) -> None:
        try:
            check_regular(self.path)
            with self.path.open("r+b") as lines:
                earlier = parse_json(lines.readline().decode())
                if earlier["piclip annotate"] != _FORMAT:
                    raise ValueError("another format")
                self._check_settings(dict(earlier["settings"]), settings)
                place = lines.tell()
                while (line := lines.readline()).endswith(b"\n"):
                    entry = parse_json(line.decode())
                    size, changed = entry["stamp"]
                    self._places[str(entry["image"])] = place, (size, changed)
                    place = lines.tell()
                if line:
                    lines.truncate(place)
        except UsageError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.path} is no journal of an earlier run, or is damaged; {_ADVICE}."
            ) from error

    def _check_settings(self, earlier: dict[str, Any], settings: dict[str, Any]) -> None:
        changed = [key for key in settings if earlier.get(key) != settings[key]]
        if changed:
            raise UsageError(
                f"{self.path} belongs to a run with other settings ({', '.join(changed)}); "
                f"{_ADVICE}."
            )


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, allow_nan=False).encode("ascii") + b"\n"
