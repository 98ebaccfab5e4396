"""Grids of pictures with titles, names and a colour scale: what all figures are made of.

Built on matplotlib's ``Figure`` alone: no global state, no window, safe in threads and scripts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from piclip.errors import UsageError
from piclip.io.overlays import draw_overlay

_COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of the prior look equal
_HEAT_WEIGHT = 0.7
_PIXELS = 360
_PANEL, _GAP, _MARGIN = 1.75, 0.06, 0.08  # inches, like all that follow
_LABEL, _TITLE, _SCALE = 1.15, 0.55, 0.62


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row, and what is written into its lower corner."""

    picture: Image.Image
    caption: str = ""


def grid_figure(
    rows: Sequence[tuple[str, Sequence[Panel]]], titles: Sequence[str], *, scale: bool = False
) -> Figure:
    """Panels in rows and columns, titles above, names on the left.

    With ``scale`` the colour scale of priors is on the right.

    Raises:
        UsageError: There is no row, or one with another number of panels.
    """
    if not rows or any(len(panels) != len(titles) for _, panels in rows):
        raise UsageError(f"A figure needs rows of {len(titles)} panels each, one per title.")
    # Each row is as high as its tallest panel needs at the common width.
    heights = []
    for _, panels in rows:
        tallest = max(panel.picture.height / panel.picture.width for panel in panels)
        heights.append(_PANEL * min(max(tallest, 0.35), 1.4))  # no endless figure for a thin strip
    step = _PANEL + _GAP
    width = _LABEL + step * len(titles) + (_SCALE if scale else _MARGIN)
    height = _TITLE + sum(heights) + _GAP * (len(rows) + 1)
    figure = Figure(figsize=(width, height), facecolor="white")
    top = height - _TITLE
    for column, title in enumerate(titles):
        centre = (_LABEL + step * column + _PANEL / 2) / width
        figure.text(centre, (top + 0.08) / height, title, ha="center", va="bottom", fontsize=9)
    for (name, panels), inches in zip(rows, heights, strict=True):
        top -= inches
        where = ((_LABEL - 0.1) / width, (top + inches / 2) / height)
        lines = (textwrap.wrap(line, 15) or [line] for line in name.split("\n"))
        label = "\n".join(chain.from_iterable(lines))  # long names break at their spaces
        figure.text(*where, label, ha="right", va="center", fontsize=9, parse_math=False)
        for column, panel in enumerate(panels):
            left = (_LABEL + step * column) / width
            box = (left, top / height, _PANEL / width, inches / height)
            _draw_panel(figure, panel, box)
        top -= _GAP
    if scale:
        _draw_scale(figure, width, height, heights[0])
    return figure


def panel_picture(image: Image.Image) -> Image.Image:
    """The image as RGB with its longer side at the panels' resolution, enlarged if need be."""
    scale = _PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def with_mask(image: Image.Image, mask: npt.NDArray[np.bool_]) -> Image.Image:
    """An image for a panel with a mask (H, W) over it."""
    small = panel_picture(image)
    labels = Image.fromarray(mask.astype(np.uint8)).resize(small.size, Image.Resampling.NEAREST)
    return draw_overlay(small, np.asarray(labels), alpha=0.6)


def heat(image: Image.Image, values: npt.NDArray[np.float32]) -> Image.Image:
    """A prior (h, w) in [0, 1] in colours over the gray image, enlarged smoothly to its size."""
    smooth = Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC)
    colours = colormaps[_COLOUR_MAP](np.clip(np.asarray(smooth), 0, 1))[:, :, :3] * 255
    gray = np.asarray(image.convert("L"), dtype=np.float64)[:, :, None]
    mixed = _HEAT_WEIGHT * colours + (1 - _HEAT_WEIGHT) * gray
    return Image.fromarray(np.round(mixed).astype(np.uint8))


def _draw_panel(figure: Figure, panel: Panel, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.imshow(panel.picture, interpolation="lanczos")
    axes.set_axis_off()
    if panel.caption:
        axes.text(
            *(0.03, 0.03, panel.caption),
            transform=axes.transAxes,
            ha="left",
            va="bottom",
            fontsize=8,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
        )


def _draw_scale(figure: Figure, width: float, height: float, row_inches: float) -> None:
    """The colour scale of the priors, as high as the first row and right of it."""
    left = width - _SCALE + 0.08
    bottom = height - _TITLE - row_inches
    axes = figure.add_axes((left / width, bottom / height, 0.1 / width, row_inches / height))
    ramp = colormaps[_COLOUR_MAP](np.linspace(1, 0, 256))[:, None, :3]
    axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([0, 1], ["0", "1"], fontsize=8)
    axes.yaxis.tick_right()
