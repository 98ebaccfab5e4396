"""The figures in a table's cells: means over folds, gains, and their intervals over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from piclip.evaluation.metrics import confidence_interval
from piclip.evaluation.records import Evaluation, SeedResult

MISSING = "-"
"""What is shown where a result is missing."""


def over_folds(results: Sequence[Evaluation | None], kind: str) -> tuple[float, float] | None:
    """Mean of "miou" or "fb_iou" over all folds and half of its interval over the seeds.

    None if a fold is missing, or the folds have no seed in common.
    """
    figures = _by_seed(results, kind)
    return confidence_interval(list(figures.values())) if figures else None


def gain(
    own: Sequence[Evaluation | None], base: Sequence[Evaluation | None]
) -> tuple[float, float] | None:
    """Mean gain; its interval is that of the seeds' differences, if both saw the same episodes."""
    ours, theirs = _by_seed(own, "miou"), _by_seed(base, "miou")
    if not ours or not theirs:
        return None
    if _asked(own) != _asked(base):
        return float(np.mean([*ours.values()]) - np.mean([*theirs.values()])), math.nan
    return confidence_interval([ours[seed] - theirs[seed] for seed in ours])


def shown(figure: tuple[float, float] | None, sign: str = "") -> str:
    """A mean with the half of its interval, if it has one."""
    if figure is None:
        return MISSING
    mean, half = figure
    return f"{mean:{sign}.1f}" if math.isnan(half) else f"{mean:{sign}.1f} ± {half:.1f}"


def _by_seed(results: Sequence[Evaluation | None], kind: str) -> dict[int, float] | None:
    """Mean over all folds for each seed that every fold has; None if a fold is missing."""
    found = [result for result in results if result is not None]
    if not found or len(found) < len(results):
        return None
    parts: list[dict[int, SeedResult]] = [{r.seed: r for r in one.per_seed} for one in found]
    common = sorted(set.intersection(*(set(part) for part in parts)))
    return {seed: float(np.mean([getattr(p[seed], kind) for p in parts])) for seed in common}


def _asked(results: Sequence[Evaluation | None]) -> list[tuple[int, int, str]]:
    return sorted(
        (one.fold, result.seed, result.episodes_hash)
        for one in results
        if one is not None
        for result in one.per_seed
    )
