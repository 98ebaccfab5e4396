"""Sets a model's constants on labelled images: ``piclip calibrate``.

Episodes are seen once. What decides about their patches is kept: the log-odds by the supports of
each block, the name's map and how far it is borne out, the coverage of the truth. On these the
constants are chosen one after another, each by the class-accumulated mIoU of the patches, as much
under the classes' names as under names that no model knows:

    blocks                     one or two of the upper half, by the supports alone
    text_weight, text_level    over a grid
    threshold                  over a grid
    presence                   refuses one in twenty-five of the images that hold the class
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.checkpoints import LoadedClip, save_clip, save_model
from piclip.clip.encoder import Encoder
from piclip.clip.preprocessing import mask_coverage
from piclip.clip.settings import SETTINGS_FILE, ModelSettings, read_json
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.quality import CALIBRATION, Questions, unknown_name
from piclip.evaluation.predictor import truth_of
from piclip.io.images import IGNORE
from piclip.io.outputs import Progress, write_json
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.evidence import ClassMemory
from piclip.training_free.naming import name_log_odds
from piclip.training_free.presence import presence_scores
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Vision

TEXT_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0)
TEXT_LEVELS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0)
THRESHOLDS = tuple(round(0.3 + 0.02 * step, 2) for step in range(26))
LOST = 0.04
"""Share of the images that hold the class which presence may refuse."""

Labelled = tuple[Image.Image, NDArray[np.bool_]]


@dataclass(frozen=True)
class Case:
    """One episode.

    Attributes:
        name: The class.
        supports: RGB images with masks (H, W).
        query: An RGB image that holds the class.
        truth: Its labels, uint8 (H, W): 1 the class, 255 to be ignored.
    """

    name: str
    supports: tuple[Labelled, ...]
    query: Image.Image
    truth: NDArray[np.uint8]


def cases_of(questions: Questions, shots: int) -> list[Case]:
    """The episodes of the mode "calibration" with their images."""
    found = []
    for question in questions.ask(CALIBRATION, shots):
        query = questions.load(question.query, question.asked)
        shown = [questions.load(key, question.shown) for key in question.supports]
        supports = [(Image.fromarray(s.image), s.mask(question.shown)) for s in shown]
        truth = truth_of(query, question.asked)
        found.append(Case(question.name, tuple(supports), Image.fromarray(query.image), truth))
    return found


@dataclass(frozen=True, eq=False)
class _Trial:
    """What was seen of one case under one name, on the grid of the query.

    Attributes:
        name: The class, whatever it was called.
        coverage: Share of each patch that is the class and that is not, (2, h, w).
        log_odds: By the supports alone, (1, 1, h, w).
        memory: Of the supports.
        presence: Presence's score.
        refined: The name's map, (1, 1, h, w); None without a CLIP.
        asked: The CLIP's log-odds of the name in the query, (1, 1); None without one.
    """

    name: str
    coverage: Tensor
    log_odds: Tensor
    memory: ClassMemory
    presence: float
    refined: Tensor | None
    asked: Tensor | None

    def scores(self, settings: ModelSettings) -> Tensor:
        """The class's scores with these settings, (h, w)."""
        log_odds = self.log_odds
        if self.refined is not None and self.asked is not None:
            agreed, shown = self.memory.agreement[None], self.memory.named[None]
            log_odds = log_odds + name_log_odds(self.refined, agreed, shown, self.asked, settings)
        return torch.sigmoid(log_odds)[0, 0]


@dataclass(frozen=True)
class Calibration:
    """What was chosen.

    Attributes:
        settings: The model's settings, with the constants chosen.
        before: mIoU of the patches in percent with the model's own settings.
        after: The same with those chosen.
        episodes: On how many episodes.
    """

    settings: ModelSettings
    before: float
    after: float
    episodes: int


@torch.inference_mode()
def calibrate(
    scorer: TrainingFreeScorer, cases: Sequence[Case], *, progress: Progress | None = None
) -> Calibration:
    """Chooses blocks, text_weight, text_level, threshold and presence.

    Args:
        scorer: With contrast evidence; its own settings are left as they are.
        cases: The episodes; best a hundred or more, of one and of several supports.
        progress: Called with (passes over a case done, passes in all).

    Raises:
        UsageError: There is no case, or the evidence is another.
    """
    if not cases or scorer.evidence_name != "contrast":
        raise UsageError("Calibration needs labelled images and evidence='contrast'.")
    vision, passes = scorer.vision, 0

    def told() -> None:
        nonlocal passes
        passes += 1
        if progress is not None:
            progress(passes, 3 * len(cases))

    before = _trials(vision, cases, told)
    chosen = replace(vision.settings, blocks=_best_blocks(vision, cases, told))
    trials = _trials(Vision(vision.tower, vision.encoder, settings=chosen), cases, told)
    if vision.encoder is not None:
        grid = product(TEXT_WEIGHTS, TEXT_LEVELS)
        tried = [replace(chosen, text_weight=one, text_level=two) for one, two in grid]
        chosen = max(tried, key=lambda settings: max(_curve(trials, settings)))
    curve = _curve(trials, chosen)
    best = int(np.argmax(curve))
    presence = float(np.quantile([t.presence for t in trials if t.name == t.memory.name], LOST))
    chosen = replace(chosen, threshold=THRESHOLDS[best], presence=round(presence, 2))
    own = _curve(before, vision.settings, (vision.settings.threshold,))
    return Calibration(chosen, own[0], curve[best], len(cases))


def _trials(vision: Vision, cases: Sequence[Case], told: Callable[[], None]) -> list[_Trial]:
    """Each case under its name and, where names are read, under one that no model knows."""
    evidence, trials = ContrastEvidence(vision), []
    for number, case in enumerate(cases):
        query = vision.see([case.query])
        reads = vision.encoder is not None
        for name in (case.name, *([unknown_name(number)] if reads else [])):
            memory = evidence.learn(name, case.supports, vision.texts([name], None)[0], ())
            log_odds, asked = evidence.log_odds(query, [memory]), evidence.named(query, [memory])
            presence = presence_scores(query, [memory], log_odds, asked)
            refined = evidence.name_maps(query, [memory])[1] if reads else None
            coverage = _coverage(case, query.grid).to(log_odds.device)
            trials.append(
                _Trial(case.name, coverage, log_odds, memory, float(presence), refined, asked)
            )
        told()
    return trials


def _best_blocks(
    vision: Vision, cases: Sequence[Case], told: Callable[[], None]
) -> tuple[int, ...]:
    """The one or two blocks of the upper half with which the supports alone say most."""
    depth = vision.tower.depth
    upper = tuple(range(depth // 2 + 1, depth + 1))
    tower = Vision(vision.tower, settings=replace(vision.settings, blocks=upper))
    evidence, seen = ContrastEvidence(tower), []
    for case in cases:
        memory = evidence.learn(case.name, case.supports, tower.texts([case.name], None)[0], ())
        query = tower.see([case.query])
        seen.append((case.name, _coverage(case, query.grid), evidence.contrast(query, memory)))
        told()

    def quality(blocks: tuple[int, ...]) -> float:
        rows = [upper.index(block) for block in blocks]
        scores = [z[rows].mean(0)[0].sigmoid().cpu() for _, _, z in seen]
        named = [(name, coverage.flatten(1)) for name, coverage, _ in seen]
        pairs = [(*one, score) for one, score in zip(named, scores, strict=True)]
        return max(_miou(pairs, THRESHOLDS))

    return max((*combinations(upper, 1), *combinations(upper, 2)), key=quality)


def _curve(
    trials: Sequence[_Trial], settings: ModelSettings, thresholds: Sequence[float] = THRESHOLDS
) -> list[float]:
    """MIoU of the patches in percent at each threshold."""
    answers = [(t.name, t.coverage.cpu(), t.scores(settings).cpu()) for t in trials]
    return _miou(answers, thresholds)


def _miou(
    answers: Sequence[tuple[str, Tensor, Tensor]], thresholds: Sequence[float]
) -> list[float]:
    """Class-accumulated mIoU in percent of (class, coverage (2, ...), scores (...))."""
    counts: dict[str, Tensor] = {}
    levels = torch.tensor(thresholds)
    for name, coverage, scores in answers:
        marked = (scores.flatten()[:, None] >= levels).to(coverage.dtype)
        inside, outside = coverage.flatten(1) @ marked
        own = torch.stack([inside, outside + coverage[0].sum()])
        counts[name] = counts[name] + own if name in counts else own
    shares = torch.stack([hit / union.clamp_min(1e-9) for hit, union in counts.values()])
    return [100 * value for value in shares.mean(0).tolist()]


def _coverage(case: Case, grid: tuple[int, int]) -> Tensor:
    """Share of each patch that is the class and that is not, without what is ignored, (2, h, w)."""
    parts = (case.truth == 1, (case.truth != 1) & (case.truth != IGNORE))
    return torch.stack([mask_coverage(part, grid) for part in parts])


def constants(settings: ModelSettings) -> dict[str, Any]:
    """What `calibrate` chooses, as it is written."""
    names = ("blocks", "text_weight", "text_level", "presence", "threshold")
    return {name: getattr(settings, name) for name in names}


def save_calibrated(scorer: TrainingFreeScorer, settings: ModelSettings, folder: Path) -> None:
    """Writes the model whose tokens are compared with its new settings.

    Args:
        scorer: With the model.
        settings: From `calibrate`.
        folder: That of the model itself, of which only ``piclip.json`` changes; or a new one.

    Raises:
        UsageError: There is something else in the folder.
        OutputError: It cannot be written.
    """
    tower = scorer.vision.tower
    if tower.source is not None and Path(tower.source).resolve() == folder.resolve():
        written = read_json(folder / SETTINGS_FILE) or {}
        write_json(written | constants(settings), folder / SETTINGS_FILE)
    elif isinstance(tower, Encoder):
        save_clip(LoadedClip(tower.model, tower.tokenizer, settings), folder)
    else:
        save_model(tower.model, None, settings, folder)
