"""Figures for people: an episode with its priors in one row, like Fig. 4 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from PIL import Image

from piclip.errors import UsageError
from piclip.figures.panels import Panel, grid_figure, heat, panel_picture, with_mask
from piclip.io.outputs import atomic_path, check_file
from piclip.results import Priors, Segmentation, priors_of

TITLES = {
    "visual_text": "Text prior\n(VTP)",
    "visual_text_refined": "Text prior,\nrefined",
    "visual_visual": "Image prior\n(VVP)",
    "visual_visual_refined": "Image prior,\nrefined",
    "contrast": "Object against\nbackground",
    "fused": "Together\n",
}
"""Titles of the maps by their field in `Priors`, in the order in which they are shown."""


@dataclass(frozen=True, eq=False)
class EpisodeRow:
    """One row of `episodes_figure`.

    Raises:
        UsageError: Sizes do not agree, the class does not exist, or the query image is missing.
    """

    support_image: Image.Image
    support_mask: npt.NDArray[np.bool_]  # (H, W), its object
    segmentation: Segmentation  # of the query; it must hold its image
    truth: npt.NDArray[np.bool_] | None = None  # (H, W), the query's true mask
    class_index: int = 0  # which class of the segmentation to show
    published: Priors | None = None  # of the query with evidence="published", to show VVP too

    def __post_init__(self) -> None:
        segmentation, support = self.segmentation, self.support_image
        if not 0 <= self.class_index < len(segmentation.class_names):
            raise UsageError(
                f"There is no class {self.class_index}; the segmentation has "
                f"{len(segmentation.class_names)}, counted from 0."
            )
        if self.support_mask.shape != (support.height, support.width):
            raise UsageError("The support mask must have the size of the support image.")
        if self.truth is not None and self.truth.shape != segmentation.size:
            raise UsageError("The true mask must have the size of the query image.")
        if segmentation.image is None:
            raise UsageError(
                f"The segmentation {segmentation.name!r} does not hold its image; predict with the "
                f"image kept to draw a figure."
            )

    @property
    def prediction(self) -> npt.NDArray[np.bool_]:
        """Bool (H, W): the predicted mask of the class shown."""
        return self.segmentation.mask_of(self.segmentation.class_names[self.class_index])

    @property
    def iou(self) -> float | None:
        """Intersection over union of prediction and truth in [0, 1]; 1 where both are empty."""
        if self.truth is None:
            return None
        union = int((self.prediction | self.truth).sum())
        return int((self.prediction & self.truth).sum()) / union if union else 1.0

    @property
    def label(self) -> str:
        """Class name, and IoU where the truth is known."""
        name = self.segmentation.class_names[self.class_index]
        return name if self.iou is None else f"{name}\nIoU {100 * self.iou:.1f} %"

    @property
    def maps(self) -> dict[str, npt.NDArray[np.float32]]:
        """The maps to show, float32 (h, w) in [0, 1], by their field in `Priors`."""
        there = {} if self.published is None else self.published.maps()
        there |= priors_of(self.segmentation).maps()
        return {field: there[field][self.class_index] for field in TITLES if field in there}

    def panels(self) -> list[Panel]:
        """The pictures of the row: support, query, maps and result."""
        image = self.segmentation.image
        assert image is not None
        query = panel_picture(image)
        pictures = [
            with_mask(self.support_image, self.support_mask),
            query if self.truth is None else with_mask(image, self.truth),
            *(heat(query, values) for values in self.maps.values()),
            with_mask(image, self.prediction),
        ]
        return [Panel(picture) for picture in pictures]


def priors_figure(
    support_image: Image.Image,
    support_mask: npt.NDArray[np.bool_],
    segmentation: Segmentation,
    *,
    truth: npt.NDArray[np.bool_] | None = None,
    class_index: int = 0,
) -> Figure:
    """Draws one episode in a row: support, query, the maps behind the result, and the result.

    Arguments and errors are those of `EpisodeRow`.
    """
    return episodes_figure(
        [EpisodeRow(support_image, support_mask, segmentation, truth, class_index)]
    )


def episodes_figure(rows: Sequence[EpisodeRow]) -> Figure:
    """Draws several episodes, one per row, with titles over the columns.

    Raises:
        UsageError: There are no rows, or they have different maps.
    """
    if not rows:
        raise UsageError("A figure needs at least one episode.")
    shown = rows[0].maps
    if any(row.maps.keys() != shown.keys() for row in rows):
        raise UsageError("The rows of a figure must have the same maps.")
    with_truth = any(row.truth is not None for row in rows)
    titles = [
        "Support\nwith its mask",
        "Query\nwith the truth" if with_truth else "Query\n",
        *(TITLES[field] for field in shown),
        "Result\n",
    ]
    return grid_figure([(row.label, row.panels()) for row in rows], titles, scale=True)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Writes a figure atomically; the suffix says the format (.png, .pdf, .svg, ...).

    Raises:
        UsageError: matplotlib does not know the suffix.
        OutputError: The file cannot be written.
    """
    kind = check_figure(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi)
    return Path(path)


def check_figure(path: str | Path) -> str:
    """Refuse a file that no figure can be saved as, before it is drawn.

    Returns:
        Its format, by matplotlib's name.

    Raises:
        UsageError: matplotlib does not know the suffix.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    kinds = FigureCanvasBase.get_supported_filetypes()
    kind = path.suffix.lstrip(".").lower()
    if kind not in kinds:
        raise UsageError(
            f"A figure cannot be saved as {path.name!r}; end the name in one of "
            f"{', '.join('.' + known for known in sorted(kinds))}."
        )
    check_file(path)
    return kind
