"""Figures for people: an episode with its priors in one row, like Fig. 4 of the paper.

Built on matplotlib's ``Figure`` alone: no global state, no window, safe in threads and scripts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from piclip.errors import UsageError
from piclip.outputs import atomic_path
from piclip.overlays import draw_overlay
from piclip.results import Segmentation

_COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of the prior look equal
_HEAT_WEIGHT = 0.7
_PANEL_PIXELS = 360
_PANEL_INCHES = 1.75
_LABEL_INCHES = 1.15
_TITLE_INCHES = 0.55
_GAP_INCHES = 0.06
_SCALE_INCHES = 0.62


@dataclass(frozen=True, eq=False)
class EpisodeRow:
    """One row of `episodes_figure`.

    Attributes:
        support_image: The labelled image.
        support_mask: Bool (H, W), its object.
        segmentation: The result for the query; it must hold its image.
        truth: Bool (H, W), the query's true mask, or None.
        class_index: Which class of the segmentation to show, from 0.
    """

    support_image: Image.Image
    support_mask: npt.NDArray[np.bool_]
    segmentation: Segmentation
    truth: npt.NDArray[np.bool_] | None = None
    class_index: int = 0

    def __post_init__(self) -> None:
        """Check that sizes agree and the class exists (UsageError)."""
        segmentation = self.segmentation
        if not 0 <= self.class_index < len(segmentation.class_names):
            raise UsageError(
                f"There is no class {self.class_index}; the segmentation has "
                f"{len(segmentation.class_names)}, counted from 0."
            )
        if self.support_mask.shape != (self.support_image.height, self.support_image.width):
            raise UsageError("The support mask must have the size of the support image.")
        if self.truth is not None and self.truth.shape != segmentation.size:
            raise UsageError("The true mask must have the size of the query image.")
        _ = self.query_image

    @property
    def query_image(self) -> Image.Image:
        """The image that was segmented."""
        if self.segmentation.image is None:
            raise UsageError(
                f"The segmentation {self.segmentation.name!r} does not hold its image; predict "
                f"with the image kept to draw a figure."
            )
        return self.segmentation.image

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


def priors_figure(
    support_image: Image.Image,
    support_mask: npt.NDArray[np.bool_],
    segmentation: Segmentation,
    *,
    truth: npt.NDArray[np.bool_] | None = None,
    class_index: int = 0,
) -> Figure:
    """Draw one episode: support, query, the four priors and the result.

    Args:
        support_image: The labelled image.
        support_mask: Bool (H, W), its object.
        segmentation: The result for the query; it must hold its image.
        truth: Bool (H, W), the query's true mask; outlined in the query's panel if given.
        class_index: Which class of the segmentation to show, from 0.

    Returns:
        A matplotlib figure of one row.

    Raises:
        UsageError: Sizes do not agree, the class does not exist, or the query image is missing.
    """
    return episodes_figure(
        [EpisodeRow(support_image, support_mask, segmentation, truth, class_index)]
    )


def episodes_figure(rows: Sequence[EpisodeRow]) -> Figure:
    """Draw several episodes, one per row, with titles over the columns.

    Args:
        rows: At least one.

    Returns:
        A matplotlib figure.

    Raises:
        UsageError: There are no rows.
    """
    if not rows:
        raise UsageError("A figure needs at least one episode.")
    with_truth = any(row.truth is not None for row in rows)
    titles = [
        "Support\nwith its mask",
        "Query\nwith the truth" if with_truth else "Query\n",
        "Text prior\n(VTP)",
        "Text prior,\nrefined",
        "Image prior\n(VVP)",
        "Image prior,\nrefined",
        "Result\n",
    ]
    panels = [_panels(row) for row in rows]
    # Each row is as high as its tallest panel needs at the common width.
    heights = [_PANEL_INCHES * max(_aspect(panel) for panel in row) for row in panels]
    step = _PANEL_INCHES + _GAP_INCHES
    width = _LABEL_INCHES + step * len(titles) + _SCALE_INCHES
    height = _TITLE_INCHES + sum(heights) + _GAP_INCHES * (len(rows) + 1)
    figure = Figure(figsize=(width, height), facecolor="white")

    top = height - _TITLE_INCHES
    for column, title in enumerate(titles):
        centre = (_LABEL_INCHES + step * column + _PANEL_INCHES / 2) / width
        figure.text(centre, (top + 0.08) / height, title, ha="center", va="bottom", fontsize=9)
    for row, images, inches in zip(rows, panels, heights, strict=True):
        top -= inches
        middle = (top + inches / 2) / height
        figure.text(
            (_LABEL_INCHES - 0.1) / width,
            middle,
            _wrapped(row.label),
            ha="right",
            va="center",
            fontsize=9,
            parse_math=False,
        )
        for column, image in enumerate(images):
            left = (_LABEL_INCHES + step * column) / width
            axes = figure.add_axes((left, top / height, _PANEL_INCHES / width, inches / height))
            axes.imshow(image, interpolation="lanczos")
            axes.set_axis_off()
        top -= _GAP_INCHES
    _draw_scale(figure, width, height, heights[0])
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure atomically; the suffix says the format (.png, .pdf, .svg, ...).

    Args:
        figure: The figure.
        path: The file to make or to replace.
        dpi: Dots per inch of the result.

    Returns:
        The path written.

    Raises:
        UsageError: matplotlib does not know the suffix.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    kind = path.suffix.lstrip(".").lower()
    if kind not in kinds:
        raise UsageError(
            f"A figure cannot be saved as {path.name!r}; end the name in one of "
            f"{', '.join('.' + known for known in sorted(kinds))}."
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi)
    return path


def _panels(row: EpisodeRow) -> list[Image.Image]:
    """The seven pictures of a row."""
    segmentation = row.segmentation
    query = _small(row.query_image)
    priors = segmentation.priors
    maps = [
        priors.visual_text,
        priors.visual_text_refined,
        priors.visual_visual,
        priors.visual_visual_refined,
    ]
    return [
        _with_mask(row.support_image, row.support_mask),
        query if row.truth is None else _with_mask(row.query_image, row.truth),
        *(_heat(query, values[row.class_index]) for values in maps),
        _with_mask(row.query_image, row.prediction),
    ]


def _small(image: Image.Image) -> Image.Image:
    """The image as RGB with its longer side at the panel's resolution, enlarged if need be."""
    scale = _PANEL_PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _with_mask(image: Image.Image, mask: npt.NDArray[np.bool_]) -> Image.Image:
    small = _small(image)
    labels = Image.fromarray(mask.astype(np.uint8)).resize(small.size, Image.Resampling.NEAREST)
    return draw_overlay(small, np.asarray(labels), alpha=0.6)


def _heat(image: Image.Image, values: npt.NDArray[np.float32]) -> Image.Image:
    """A prior (h, w) in colours over the gray image, upsampled smoothly."""
    smooth = Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC)
    colours = colormaps[_COLOUR_MAP](np.clip(np.asarray(smooth), 0, 1))[:, :, :3] * 255
    gray = np.asarray(image.convert("L"), dtype=np.float64)[:, :, None]
    mixed = _HEAT_WEIGHT * colours + (1 - _HEAT_WEIGHT) * gray
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def _draw_scale(figure: Figure, width: float, height: float, row_inches: float) -> None:
    """The colour scale of the priors, as high as the first row and right of it."""
    left = width - _SCALE_INCHES + 0.08
    bottom = height - _TITLE_INCHES - row_inches
    axes = figure.add_axes((left / width, bottom / height, 0.1 / width, row_inches / height))
    ramp = colormaps[_COLOUR_MAP](np.linspace(1, 0, 256))[:, None, :3]
    axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([0, 1], ["0", "1"], fontsize=8)
    axes.yaxis.tick_right()


def _aspect(image: Image.Image) -> float:
    """Height over width, limited so that a thin strip does not make an endless figure."""
    return min(max(image.height / image.width, 0.35), 1.4)


def _wrapped(label: str) -> str:
    """Break a long class name at its spaces to fit the margin."""
    lines = [piece for line in label.split("\n") for piece in textwrap.wrap(line, 15) or [line]]
    return "\n".join(lines)
