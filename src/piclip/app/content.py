"""The parts of a tab's work: labelled examples, images to segment, results, progress."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.io.images import MAX_PIXELS
from piclip.results import Segmentation


@dataclass(frozen=True)
class Limits:
    """How much one tab may hold.

    Attributes:
        images: Images to segment.
        examples: Labelled images of all classes together.
        classes: Different class names.
        pixels: Pixels of any one image.
        labelled_pixels: Pixels of all labelled images together, which are held in memory with
            their masks, 4 bytes each.
    """

    images: int = 100
    examples: int = 100
    classes: int = 20
    pixels: int = MAX_PIXELS
    labelled_pixels: int = 8 * MAX_PIXELS


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled image: RGB, and bool (H, W) where the class is."""

    class_name: str
    image: Image.Image
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Query:
    """One image to segment.

    Attributes:
        file_name: What its owner calls it, such as ``herd.jpg``; numbered if two are called so.
        name: The same without suffix, different from all others of the tab.
        path: The tab's own copy.
        thumbnail: The image, small.
    """

    file_name: str
    name: str
    path: Path
    thumbnail: Image.Image


@dataclass(frozen=True, eq=False)
class Answer:
    """The result for one query: small to look at, at its full size in a file.

    Attributes:
        query: What was segmented.
        preview: The result with its longer side at ``PREVIEW_PIXELS``; it holds its image.
        scores_file: The scores at the query's own size, float16 (C, H, W).
    """

    query: Query
    preview: Segmentation
    scores_file: Path

    def at_threshold(self, threshold: float) -> Segmentation:
        """The result at the query's own size, without its image."""
        scores = np.load(self.scores_file).astype(np.float32)
        blank = np.zeros(scores.shape[1:], dtype=np.uint8)
        whole = replace(self.preview, scores=scores, class_map=blank, image=None)
        return whole.at_threshold(threshold)


@dataclass(frozen=True)
class Progress:
    """How far a run is: images done, images in all, and seconds left (None: not yet known)."""

    done: int
    total: int
    seconds_left: float | None
