"""What becomes of each image's result: files of its own, or regions for a file of all images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from piclip.annotation.journal import Journal
from piclip.annotation.queries import Query
from piclip.errors import MaskError
from piclip.formats.cleaning import AS_FOUND, Cleaning
from piclip.formats.labels import LabelledFile, Region
from piclip.formats.predicted import from_segmentation
from piclip.formats.run_length import RunLengthMask
from piclip.io.outputs import write_png
from piclip.results import OVERLAYS, Segmentation

_DIGITS = 6
_FEW_DIGITS = 4


Kept: TypeAlias = tuple[dict[str, Any], Sequence[Path]]
"""What a sink made of a result: for the journal, as JSON reads it back, and the files written."""


class Keeper(Protocol):
    """Takes results one by one, in a thread of its own."""

    def keep(self, query: Query, result: Segmentation) -> Kept:
        """Keep one result; an OutputError ends the job, another PiclipError is of this image."""
        ...


class Sink(Keeper, Protocol):
    """A keeper of results that stay; processes have a copy each, so it holds no state."""

    def holds(self, journal: Journal, path: str) -> bool:
        """Whether all that was written for an image of the journal is still there."""
        return True


@dataclass(frozen=True)
class MaskFiles:
    """A PNG of each image's size in a folder that is there, and an overlay in one below it.

    Masks are cleaned before; see `Segmentation.save`.
    """

    folder: Path
    overlays: bool = False
    cleaning: Cleaning = AS_FOUND

    def keep(self, query: Query, result: Segmentation) -> Kept:
        """Write the files; the journal has their names, the mask's shares and mean scores."""
        result = result.cleaned(**vars(self.cleaning))
        paths = {"mask": f"{query.name}.png"}
        if self.overlays:
            paths["overlay"] = f"{OVERLAYS}/{query.name}.png"
        files = []
        for kind, picture in result.pictures(overlay=self.overlays).items():
            # A folder that was taken away is not made again: its journal is not there.
            files.append(write_png(picture, self.folder / paths[kind], make_folder=False))
        inside, (height, width) = result.mask, result.size
        score = np.zeros(result.size, dtype=np.float32)
        shares, scores = {}, {}
        for name in result.class_names:  # one map of scores at a time, which is made for this
            own, mask = result.score_of(name), result.mask_of(name)
            np.maximum(score, own, out=score)
            shares[name], scores[name] = _rounded(mask.mean()), _mean_in(own, mask)
        found = {
            **paths,
            "width": width,
            "height": height,
            "share": _rounded(inside.mean()),
            "shares": shares,
            "presence": result.presence_by_class,
            "scores": scores,
            "mean_score": _rounded(score.mean()),
            "mean_score_inside": _mean_in(score, inside),
        }
        return found, files

    def holds(self, journal: Journal, path: str) -> bool:
        """Whether the mask, and the overlay if asked for, are there and not empty."""
        found = journal.read(path).found
        names = [found["mask"], *([found.get("overlay")] if self.overlays else [])]
        try:
            return all(name and os.stat(f"{self.folder}/{name}").st_size for name in names)  # noqa: PTH116
        except OSError:
            return False


@dataclass(frozen=True)
class Proposal:
    """What was found in one image: its regions, each with its score."""

    file: LabelledFile
    certainty: float | None  # see certainty_of; None for labels that were given

    @classmethod
    def of(cls, path: str, found: Mapping[str, Any]) -> Proposal:
        """What `found` gave, as JSON or Parquet reads it back."""
        height, width = found["height"], found["width"]
        regions = [
            Region(r["class"], RunLengthMask(height, width, r["counts"].encode()), score=r["score"])
            for r in found["regions"]
        ]
        file = LabelledFile(
            *(path, height, width, tuple(regions)),
            id=found.get("id"),
            source=found.get("source"),
            presence=None if found["presence"] is None else dict(found["presence"]),
        )
        return cls(file, found["certainty"])

    def found(self) -> dict[str, Any]:
        """All but the path, for a journal or a row of `piclip.annotation.parquet`."""
        file = self.file
        return {
            "id": file.id,
            "source": file.source,
            "height": file.height,
            "width": file.width,
            "regions": [
                {"class": r.class_name, "score": r.score, "counts": r.mask.counts.decode()}
                for r in file.regions
            ],
            "presence": None if file.presence is None else list(file.presence.items()),
            "certainty": self.certainty,
        }


@dataclass(frozen=True)
class Regions(Sink):
    """Regions in the journal alone, for any label format; see `piclip.annotation.export`."""

    def keep(self, query: Query, result: Segmentation) -> Kept:
        """Find the regions (MaskError if the labels list the image with another size)."""
        file = from_segmentation(result, query.path)
        if query.known is not None:
            if result.size != query.known.size:
                raise MaskError(
                    f"{query.file}: the image is {file.width} x {file.height} pixels (width x "
                    f"height) but the labels say {query.known.width} x {query.known.height}; give "
                    f"the image that the labels list."
                )
            file = replace(file, id=query.known.id, source=query.known.source)
        # Rounded as scores are: the last digits depend on which images are segmented together.
        return Proposal(file, round(certainty_of(result), _FEW_DIGITS)).found(), ()


def certainty_of(found: Segmentation) -> float:
    """How sure the segmenter is of an image, from 0 (label this image next) to 1.

    The mean score over the pixels of all classes; without any, one minus the greatest score. A
    score counts no more than the presence of its class, where that is known.
    """
    most = np.ones(len(found.class_names)) if found.presence is None else found.presence
    own = {name: float(one) for name, one in zip(found.class_names, most, strict=True)}
    pixels = int(found.mask.sum())
    if not pixels:
        return 1 - max(min(float(found.score_of(name).max()), own[name]) for name in own)
    masks = ((name, found.mask_of(name)) for name in own)
    sums = (np.minimum(found.score_of(n)[mask], own[n]).sum() for n, mask in masks if mask.any())
    return sum(map(float, sums)) / pixels


def _mean_in(score: NDArray[np.float32], mask: NDArray[np.bool_]) -> float | None:
    return _rounded(score[mask].mean()) if mask.any() else None


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), _DIGITS)
