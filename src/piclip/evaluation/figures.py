"""The paper's figures from the episodes of any dataset: Fig. 1, Fig. 3 and Fig. 4.

Built on matplotlib's ``Figure`` alone: no global state, no window, safe in threads and scripts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode, EpisodeKeys, FewShotView
from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU
from piclip.evaluation.predictors import Predictor, TrainingFree, blind, combined_map, truth_of
from piclip.overlays import draw_overlay

Prior = Callable[[Episode], npt.NDArray[np.float32]]
"""Gives a prior of an episode's query, (H, W) in [0, 1], at its own size."""

_COLOUR_MAP = "inferno"  # perceptually uniform: equal steps of the prior look equal
_HEAT_WEIGHT = 0.7
_PIXELS = 360
_PANEL, _GAP, _MARGIN = 1.75, 0.06, 0.08  # inches, like all that follow
_LABELS, _TITLES, _SCALE = 1.05, 0.5, 0.5
_TALLEST = 1.4  # height over width of a panel, so that a thin image makes no endless figure


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row, and what is written into its lower corner."""

    picture: Image.Image
    caption: str = ""


def pick_episodes(view: FewShotView, *, seed: int, shots: int, rows: int) -> list[EpisodeKeys]:
    """The first episodes of a seed, a new class in each row as long as there is one.

    Args:
        view: What to draw from.
        seed: Another seed, other episodes; nothing is picked by hand.
        shots: Supports of every episode.
        rows: How many episodes.

    Raises:
        UsageError: Less than one row.
        DatasetError: A class has too few images.
    """
    if rows < 1:
        raise UsageError("A figure needs at least one row.")
    chosen: list[EpisodeKeys] = []
    counts = dict.fromkeys(view.classes, 0)
    for index in range(max(100, 4 * len(view.keys))):
        keys = view.episode(seed, index, shots)
        if counts[keys.class_index] == min(counts.values()):
            counts[keys.class_index] += 1
            chosen.append(keys)
        if len(chosen) == rows:
            break
    return chosen


def previous_and_ours(
    view: FewShotView, keys: Sequence[EpisodeKeys], previous: Prior, ours: TrainingFree
) -> Figure:
    """Fig. 1: the prior of a backbone trained on base classes beside ours, on novel classes.

    Args:
        view: The novel classes.
        keys: One episode for each row.
        previous: The max-cosine prior of the backbone.
        ours: Gives the refined visual-text and the visual-visual prior.
    """
    rows = []
    for episode in map(view.load, keys):
        asked = blind(episode)
        result = ours.segment(asked)
        priors, size = result.priors, result.size
        maps = [previous(asked)]
        maps += [combined_map(priors, name, size) for name in ("vtp+pir", "vvp", "piclip")]
        rows.append((episode.name, [*_shown(episode), *(_heat(episode.query, m) for m in maps)]))
    titles = (
        "Support\nwith its mask",
        "Query\nwith the truth",
        "Previous prior\n(trained backbone)",
        "Ours: text\n(VTP, refined)",
        "Ours: image\n(VVP)",
        "Ours: mean\nof both",
    )
    return grid_figure(rows, titles, scale=True)


def baseline_and_ours(
    view: FewShotView,
    keys: Sequence[EpisodeKeys],
    baseline: Predictor,
    ours: Predictor,
    names: tuple[str, str] = ("Baseline", "Ours"),
) -> Figure:
    """Fig. 3: support, truth, and the masks of two methods with their IoU in percent.

    Args:
        view: The novel classes.
        keys: One episode for each row.
        baseline: The previous method.
        ours: The method to compare.
        names: What the two are called.
    """
    rows = []
    for episode in map(view.load, keys):
        masks = [method.predict([blind(episode)], [()])[0] for method in (baseline, ours)]
        panels = [Panel(_masked(episode.query, mask), _iou(episode, mask)) for mask in masks]
        rows.append((episode.name, [*_shown(episode), *panels]))
    return grid_figure(rows, ("Support\nwith its mask", "Query\nwith the truth", *names))


def before_and_after(
    view: FewShotView, keys: Sequence[EpisodeKeys], segmenter: TrainingFree
) -> Figure:
    """Fig. 4: the visual-text and the visual-visual prior before and after refinement.

    Args:
        view: The novel classes.
        keys: One episode for each row.
        segmenter: Gives the priors.
    """
    rows = []
    for episode in map(view.load, keys):
        result = segmenter.segment(blind(episode))
        priors, size = result.priors, result.size
        maps = [combined_map(priors, n, size) for n in ("vtp", "vtp+pir", "vvp", "vvp+pir")]
        rows.append((episode.name, [*_shown(episode), *(_heat(episode.query, m) for m in maps)]))
    titles = (
        "Support\nwith its mask",
        "Query\nwith the truth",
        "Text prior\n(VTP)",
        "Text prior,\nrefined",
        "Image prior\n(VVP)",
        "Image prior,\nrefined",
    )
    return grid_figure(rows, titles, scale=True)


def grid_figure(
    rows: Sequence[tuple[str, Sequence[Panel]]], titles: Sequence[str], *, scale: bool = False
) -> Figure:
    """Panels in rows and columns, titles above, names on the left.

    Args:
        rows: The name of a row and its panels, one per title.
        titles: One per column.
        scale: Draw the colour scale of priors on the right.

    Raises:
        UsageError: There is no row, or one with another number of panels.
    """
    if not rows or any(len(panels) != len(titles) for _, panels in rows):
        raise UsageError(f"A figure needs rows of {len(titles)} panels each, one per title.")
    heights = [_PANEL * max(_aspect(panel.picture) for panel in panels) for _, panels in rows]
    step = _PANEL + _GAP
    width = _LABELS + step * len(titles) - _GAP + (_SCALE if scale else _MARGIN)
    height = _TITLES + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    for column, title in enumerate(titles):
        centre = (_LABELS + step * column + _PANEL / 2) / width
        at = (height - _TITLES + 0.06) / height
        figure.text(centre, at, title, ha="center", va="bottom", fontsize=9)
    top = height - _TITLES
    for (name, panels), inches in zip(rows, heights, strict=True):
        top -= inches
        where = ((_LABELS - 0.1) / width, (top + inches / 2) / height)
        label = textwrap.fill(name, 13)
        figure.text(*where, label, ha="right", va="center", fontsize=9, parse_math=False)
        for column, panel in enumerate(panels):
            left = (_LABELS + step * column) / width
            box = (left, top / height, _PANEL / width, inches / height)
            _draw_panel(figure, panel, box)
        top -= _GAP
    if scale:
        _draw_scale(figure, width, height, heights[0])
    return figure


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


def _draw_scale(figure: Figure, width: float, height: float, inches: float) -> None:
    """The colour scale of the priors, as high as the first row and right of it."""
    left, bottom = width - _SCALE + 0.1, height - _TITLES - inches
    axes = figure.add_axes((left / width, bottom / height, 0.1 / width, inches / height))
    ramp = colormaps[_COLOUR_MAP](np.linspace(1, 0, 256))[:, None, :3]
    axes.imshow(ramp, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([0, 1], ["0", "1"], fontsize=8)
    axes.yaxis.tick_right()


def _shown(episode: Episode) -> list[Panel]:
    """The first support with its mask, and the query with the truth."""
    support, query = episode.supports[0], episode.query
    shots = len(episode.supports)
    return [
        Panel(_masked(support, support.mask(episode.class_index)), _count(shots)),
        Panel(_masked(query, query.mask(episode.class_index))),
    ]


def _count(shots: int) -> str:
    return f"1 of {shots}" if shots > 1 else ""


def _masked(sample: Sample, mask: npt.NDArray[np.bool_]) -> Image.Image:
    image = _enlarged(sample)
    labels = Image.fromarray(mask.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    return draw_overlay(image, np.asarray(labels), alpha=0.6)


def _heat(sample: Sample, values: npt.NDArray[np.float32]) -> Panel:
    """A prior (H, W) in colours over the gray image."""
    image = _enlarged(sample)
    smooth = Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC)
    colours = colormaps[_COLOUR_MAP](np.clip(np.asarray(smooth), 0, 1))[:, :, :3] * 255
    gray = np.asarray(image.convert("L"), dtype=np.float64)[:, :, None]
    mixed = _HEAT_WEIGHT * colours + (1 - _HEAT_WEIGHT) * gray
    return Panel(Image.fromarray(np.round(mixed).astype(np.uint8)))


def _enlarged(sample: Sample) -> Image.Image:
    """The image with its longer side at the panels' resolution."""
    image = Image.fromarray(sample.image)
    scale = _PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _iou(episode: Episode, mask: npt.NDArray[np.bool_]) -> str:
    meter = FewShotIoU((episode.name,))
    meter.add(episode.name, mask, truth_of(episode.query, episode.class_index))
    return f"IoU {100 * meter.miou():.1f} %"


def _aspect(image: Image.Image) -> float:
    return min(image.height / image.width, _TALLEST)
