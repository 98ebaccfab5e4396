"""Images to segment and their results, small in memory to look at and whole on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.results import MIN_PRESENCE, ScoreMaps, Segmentation

PREVIEW_PIXELS = 720  # longer side of what the page shows: the slider must answer at once

THUMBNAIL_PIXELS = 240


@dataclass(frozen=True, eq=False)
class Query:
    """One image to segment."""

    file_name: str  # what its owner calls it, such as herd.jpg; numbered if two are called so
    name: str  # the same without suffix, different from all others of the tab
    path: Path  # of the tab's own copy
    thumbnail: Image.Image


@dataclass(frozen=True, eq=False)
class Answer:
    """The result for one query: small to look at, at its full size in a file."""

    query: Query
    preview: Segmentation  # with its longer side at PREVIEW_PIXELS; it holds its image
    scores_file: Path  # the scores at the query's own size, float16 (C, H, W)

    def at_threshold(self, threshold: float, *, min_presence: float = MIN_PRESENCE) -> Segmentation:
        """The result at the query's own size, without its image."""
        scores = _KeptScores(np.load(self.scores_file, mmap_mode="r"))
        whole = _with_scores(self.preview, scores, None)
        return whole.at_threshold(threshold, min_presence=min_presence)


def preview_of(result: Segmentation, image: Image.Image, name: str) -> Segmentation:
    """A result of an image with its longer side at ``PREVIEW_PIXELS``; nothing is decided yet."""
    small = fit_picture(image, PREVIEW_PIXELS)
    each = (Image.fromarray(result.score_maps[index]) for index in range(len(result.class_names)))
    resized = [np.asarray(one.resize(small.size, Image.Resampling.BILINEAR)) for one in each]
    scores = np.clip(np.stack(resized), 0, 1)
    return replace(_with_scores(result, scores, small), name=name)


def write_scores(scores: ScoreMaps, file: Path) -> None:
    """Writes scores for `Answer`, each rounded down: what a threshold lets pass did so before."""
    kept = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        file, mode="w+", dtype=np.float16, shape=scores.shape
    )
    for index in range(len(kept)):
        exact = scores[index]
        near = exact.astype(np.float16)
        kept[index] = np.where(near > exact, np.nextafter(near, np.float16(0)), near)


def fit_picture(image: Image.Image, longest: int) -> Image.Image:
    """The image as RGB with its longer side at ``longest`` pixels, enlarged if need be."""
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


@dataclass(frozen=True, eq=False)
class _KeptScores:
    """Scores in a file, read class by class: float16 (C, H, W)."""

    array: npt.NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, index: int, /) -> npt.NDArray[np.float32]:
        return np.asarray(self.array[index], dtype=np.float32)


def _with_scores(
    result: Segmentation, scores: ScoreMaps, image: Image.Image | None
) -> Segmentation:
    """A result with scores of another size; nothing is decided yet."""
    blank = np.zeros(scores.shape[1:], dtype=np.uint8)
    return replace(result, score_maps=scores, class_map=blank, image=image)
