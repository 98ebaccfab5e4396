"""``results.json``: what a run of ``piclip segment`` has done, so that a second one goes on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piclip.errors import ImageError, UsageError
from piclip.io.decoding import reason
from piclip.io.documents import read_json
from piclip.io.outputs import write_json

FILE_NAME = "results.json"
OVERLAYS = "overlays"
_ADVICE = "choose another --output, or add --overwrite to start over"


@dataclass
class RunRecord:
    """The images of an output folder, done and failed, and the settings they were made with.

    Attributes:
        folder: The output folder.
        settings: What decides about the masks; results made with others are never mixed in.
        images: One entry per query file, in order, under its absolute path.
    """

    folder: Path
    settings: dict[str, Any]
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any], *, overwrite: bool) -> RunRecord:
        """Take up the record of an earlier run, or start one.

        Args:
            folder: The output folder; it need not exist.
            settings: The settings of this run, as JSON reads them back.
            overwrite: Start over, whatever is there.

        Raises:
            UsageError: The folder's record is damaged or was made with other settings.
        """
        path = folder / FILE_NAME
        if overwrite or not path.is_file():
            return cls(folder, settings)
        try:
            data = read_json(path)
            earlier = dict(data["settings"])
            entries = {entry["file"]: dict(entry) for entry in data["images"]}
            done = {file: e for file, e in entries.items() if e["status"] == "done" and e["mask"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is no record of an earlier run; {_ADVICE}.") from error
        changed = [key for key in settings if earlier.get(key) != settings[key]]
        if changed:
            raise UsageError(
                f"{folder} holds results that were made with other settings "
                f"({', '.join(changed)}); {_ADVICE}."
            )
        return cls(folder, settings, done)

    def name_outputs(self, queries: Iterable[Path], *, overwrite: bool) -> dict[Path, str]:
        """Choose the stem of each query's outputs, no two alike; earlier results keep theirs.

        Raises:
            UsageError: A mask of that name is there already and no run of piclip has made it.
        """
        names: dict[Path, str] = {}
        taken = {Path(entry["mask"]).stem.casefold() for entry in self.images.values()}
        queries = list(queries)
        stems = [query.stem.casefold() for query in queries]
        for query in queries:
            if (entry := self.images.get(_key(query))) is not None:
                names[query] = Path(entry["mask"]).stem
                continue
            unique = stems.count(query.stem.casefold()) == 1
            first = query.stem if unique else query.name
            candidates = [
                first,
                query.name,
                *(f"{query.name}-{k}" for k in range(2, 2 + len(stems))),
            ]
            names[query] = next(name for name in candidates if name.casefold() not in taken)
            taken.add(names[query].casefold())
        if not overwrite and not (self.folder / FILE_NAME).is_file():
            self._check_foreign(names.values())
        return names

    def _check_foreign(self, names: Iterable[str]) -> None:
        for name in names:
            if (self.folder / f"{name}.png").exists():
                raise UsageError(f"{self.folder} holds a file {name}.png already; {_ADVICE}.")

    def is_done(self, query: Path, *, overlay: bool) -> bool:
        """Whether the outputs of this very file are there."""
        entry = self.images.get(_key(query))
        if entry is None or entry["status"] != "done":
            return False
        outputs = [entry["mask"], *([entry.get("overlay")] if overlay else [])]
        there = all(output and (self.folder / output).is_file() for output in outputs)
        try:
            return there and entry.get("source") == source_of(query)
        except ImageError:
            return False

    def add_done(self, query: Path, measures: dict[str, Any], source: dict[str, int]) -> None:
        """Note the outputs of a query, made of the file that ``source`` tells (`source_of`)."""
        self._add(query, {"status": "done", **measures, "source": source})

    def add_failed(self, query: Path, reason: str) -> None:
        """Note why a query has no outputs."""
        self._add(query, {"status": "failed", "reason": reason})

    def entries(self, queries: Sequence[Path], status: str) -> list[dict[str, Any]]:
        """The entries of these queries that have this status."""
        found = [self.images.get(_key(query), {}) for query in queries]
        return [entry for entry in found if entry.get("status") == status]

    def write(self) -> Path:
        """Write ``results.json``."""
        return write_json(self.as_json(), self.folder / FILE_NAME)

    def as_json(self) -> dict[str, Any]:
        """What ``results.json`` holds."""
        return {"settings": self.settings, "images": list(self.images.values())}

    def _add(self, query: Path, entry: dict[str, Any]) -> None:
        self.images[_key(query)] = {"file": _key(query), **entry}


def _key(query: Path) -> str:
    return os.path.abspath(query)  # noqa: PTH100 - keeps links, which Path.resolve would follow


def source_of(query: Path) -> dict[str, int]:
    """Tells a changed file from the one that was segmented (ImageError if it is gone)."""
    try:
        status = query.stat()
    except OSError as error:
        raise ImageError(f"{query}: {reason(error)}; put the image back.") from error
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
