"""The tables of a comparison, as its page in ``benchmarks/`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.errors import UsageError
from piclip.evaluation.metrics import confidence_interval
from piclip.evaluation.records import Evaluation
from piclip.evaluation.tables import shown
from piclip.io.outputs import atomic_path

PRIOR_TITLES = {
    "none": "none",
    "imagenet": "previous",
    "vtp": "VTP",
    "vtp+pir": "VTP + PIR",
    "vvp": "VVP",
    "piclip": "PI-CLIP's",
}
DECODERS = {"pfenet": "PFENet", "bam": "BAM", "hdmnet": "HDMNet"}
METHODS = {**DECODERS, "threshold": "threshold"}
COURSES = ("none", "imagenet", "piclip")
SHOTS = (1, 5)

_PLACE = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)


def page_tables(
    results: Mapping[str, Evaluation],
    trainings: Sequence[Mapping[str, Any]],
    folds: Sequence[int],
    segmenters: Mapping[str, str],
) -> str:
    """The mIoU of all methods, the gains over the previous prior, and the trainings' course.

    Args:
        results: By the names of their files, without what follows the dot.
        trainings: Decoder, prior and scores of base classes by step, of these folds.
        folds: What means are taken over.
        segmenters: What the segmenter was told, and what its row is called.
    """

    def by_seed(name: str, shots: int) -> NDArray[np.float64] | None:
        parts = [results.get(f"{name}-fold{fold}-{shots}shot") for fold in folds]
        figures = [[one.miou for one in part.per_seed] for part in parts if part is not None]
        return np.mean(figures, axis=0) if len(figures) == len(parts) else None

    def cell(figures: NDArray[np.float64] | None, form: str = ".1f") -> str:
        return "-" if figures is None else shown(confidence_interval([*figures]), form)

    numbers = ", ".join(map(str, folds))
    of = f"mean over folds {numbers}" if len(folds) > 1 else f"fold {numbers} alone"
    figures = [[f"mIoU, {of}", *PRIOR_TITLES.values()]]
    gains = [[f"gain over the previous prior, {of}", *PRIOR_TITLES.values()]]
    for method, title in METHODS.items():
        for shots in SHOTS:
            found = {prior: by_seed(f"{method}-{prior}", shots) for prior in PRIOR_TITLES}
            base = found["imagenet"]
            figures.append([f"{title}, {shots} shot", *(cell(own) for own in found.values())])
            more = [None if own is None or base is None else own - base for own in found.values()]
            gains.append([f"{title}, gain, {shots} shot", *(cell(gain, "+.1f") for gain in more)])
    without = [[f"without training, {of}", *(f"{shots} shot" for shots in SHOTS)]]
    for kind, title in segmenters.items():
        own = [by_seed(f"segmenter-{kind}", shots) for shots in SHOTS]
        without.append([title, *map(cell, own)])
    return "\n".join(map(_markdown, (figures, gains, without, _course(trainings))))


def _course(trainings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """How well base classes are segmented after every second validation."""
    rows: list[list[str]] = []
    for decoder, prior in product(DECODERS, COURSES):
        own = [t["scores"] for t in trainings if t["decoder"] == decoder and t["prior"] == prior]
        if own:
            steps = sorted(int(step) for step in own[0])[1::2]
            rows = rows or [["mIoU of base classes after", *(f"{step} steps" for step in steps)]]
            means = [np.mean([scores[str(step)] for scores in own]) for step in steps]
            title = f"{METHODS[decoder]}, {PRIOR_TITLES[prior]}"
            rows.append([title, *(f"{mean:.1f}" for mean in means)])
    return rows


def write_tables(page: Path, tables: str) -> None:
    """Puts the tables in their place on the page, between its two comments.

    Raises:
        UsageError: The page has no such place.
        OutputError: The page cannot be written.
    """
    text, count = _PLACE.subn(lambda _: f"\n{tables}\n", page.read_text(encoding="utf-8"))
    if count != 1:
        raise UsageError(f"{page} has no place for figures between two comments; restore it.")
    with atomic_path(page) as path:
        path.write_text(text, encoding="utf-8")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"
