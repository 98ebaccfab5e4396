"""Sets a model's constants on labelled images: ``piclip calibrate``.

What decides about the masks of episodes is kept, so that they are seen only once: what the supports
say and what the name says, which add up. On this the constants are chosen one after another by
class-accumulated mIoU, of which three quarters are that under the classes' names and one quarter
that under names that no model knows:

    blocks                     one or two of the upper half, by the supports alone
    text_weight, text_level    over a grid
    presence                   refuses a given share of the images that hold the class
    lift                       the least that is nearly best
    threshold                  over a grid
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from piclip.datasets.dataset import Sample
from piclip.errors import UsageError
from piclip.evaluation.benchmarks.quality import CALIBRATION, Questions, unknown_name
from piclip.evaluation.predictor import truth_of
from piclip.io.images import IGNORE
from piclip.io.outputs import Progress, summed, write_json
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.naming import map_log_odds, name_trust
from piclip.training_free.presence import lift, presence_scores, present
from piclip.training_free.scorer import TrainingFreeScorer
from piclip.training_free.vision import Vision

TEXT_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0)
TEXT_LEVELS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0)
LIFTS = (0.0, 0.5, 1.0)
LIFT_GAIN = 1.0
"""The least lift is taken that is no further from the best, in points of mIoU: images without the
class, which are not among the cases, pay for it."""
THRESHOLDS = tuple(round(0.3 + 0.02 * step, 2) for step in range(26))
_LEVELS = torch.tensor(THRESHOLDS)
LOST = 0.02
"""Share of the images that hold the class which presence may refuse by default."""
KNOWN = 0.75
"""Weight of the mIoU under names that the model may know."""

Labelled = tuple[Image.Image, NDArray[np.bool_]]
_Answer = tuple[str, Tensor, Tensor]
"""The class, its coverage (2, h, w) and its scores (h, w)."""


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

    @classmethod
    def of(
        cls, name: str, supports: Iterable[Sample], shown: int, query: Sample, asked: int
    ) -> Case:
        """The case of labelled images that show one class and of one that is asked for another."""
        labelled = tuple((Image.fromarray(s.image), s.mask(shown)) for s in supports)
        return cls(name, labelled, Image.fromarray(query.image), truth_of(query, asked))


def cases_of(questions: Questions, shots: int) -> list[Case]:
    """The episodes of the mode "calibration" with their images."""
    found = []
    for question in questions.ask(CALIBRATION, shots):
        query = questions.load(question.query, question.asked)
        shown = [questions.load(key, question.shown) for key in question.supports]
        found.append(Case.of(question.name, shown, question.shown, query, question.asked))
    return found


@dataclass(frozen=True, eq=False)
class _Trial:
    """What was seen of one case under one name, at 8 pixels a patch.

    Attributes:
        name: The class.
        known: Whether it was called so.
        coverage: Share of each cell that is the class and that is not, (2, h, w).
        log_odds: By the supports alone, (h, w).
        named: Log-odds of the name's map, (h, w); 0 without a CLIP.
        said: Agreement of the map with the supports' masks, and the CLIP's log-odds of the name on
            supports and query.
        presence: Presence's score.
    """

    name: str
    known: bool
    coverage: Tensor
    log_odds: Tensor
    named: Tensor
    said: tuple[Tensor, Tensor, Tensor]
    presence: float


@dataclass(frozen=True)
class Calibration:
    """What was chosen.

    Attributes:
        settings: The model's settings, with the constants chosen.
        before: mIoU of the finished masks in percent with the model's own settings.
        after: The same with those chosen.
        episodes: On how many episodes.
    """

    settings: ModelSettings
    before: float
    after: float
    episodes: int


@torch.inference_mode()
def calibrate(
    scorer: TrainingFreeScorer,
    cases: Sequence[Case],
    *,
    lost: float = LOST,
    progress: Progress | None = None,
) -> Calibration:
    """Chooses blocks, text_weight, text_level, presence, lift and threshold.

    Args:
        scorer: With contrast evidence; its own settings are left as they are.
        cases: The episodes; best a hundred or more, of one and of several supports.
        lost: Share of the images that hold the class which presence may refuse, 0 to 1.
        progress: Called with (passes over a case done, passes in all).

    Raises:
        UsageError: There is no case, or the evidence is another.
    """
    if not cases or scorer.evidence_name != "contrast":
        raise UsageError("Calibration needs labelled images and evidence='contrast'.")
    vision, told = scorer.vision, partial(summed(progress, 3 * len(cases)), 1)
    before = _curve(_trials(vision, cases, told), vision.settings)
    chosen = replace(vision.settings, blocks=_best_blocks(vision, cases, told))
    trials = _trials(Vision(vision.tower, vision.encoder, settings=chosen), cases, told)
    if vision.encoder is not None:
        grid = product(TEXT_WEIGHTS, TEXT_LEVELS)
        flat = replace(chosen, lift=0.0)  # which the level of presence decides, chosen below
        tried = [replace(flat, text_weight=one, text_level=two) for one, two in grid]
        chosen = max(tried, key=lambda settings: _curve(trials, settings).max())
    presence = float(np.quantile([trial.presence for trial in trials if trial.known], lost))
    chosen = replace(chosen, presence=round(presence, 2))
    curves = [_curve(trials, replace(chosen, lift=share)) for share in LIFTS]
    most = max(curve.max() for curve in curves) - LIFT_GAIN
    share, after = next(each for each in zip(LIFTS, curves, strict=True) if each[1].max() >= most)
    chosen = replace(chosen, lift=share, threshold=THRESHOLDS[int(after.argmax())])
    nearest = int(np.abs(np.subtract(THRESHOLDS, scorer.threshold)).argmin())
    return Calibration(chosen, float(before[nearest]), float(after.max()), len(cases))


def _trials(vision: Vision, cases: Sequence[Case], told: Callable[[], None]) -> list[_Trial]:
    """Each case under its name and, where names are read, under one that no model knows."""
    evidence, trials = ContrastEvidence(vision), []
    for number, case in enumerate(cases):
        query = vision.see([case.query])
        reads = vision.encoder is not None
        for name in (case.name, *([unknown_name(number)] if reads else [])):
            memory = evidence.learn(name, case.supports, vision.texts([name], None)[0], ())
            log_odds = evidence.log_odds(query, [memory])
            read = evidence.said(query, memory.texts[None])
            asked, maps = None, torch.zeros_like(log_odds)
            if read is not None:
                asked, maps = read.log_odds, map_log_odds(read.refined)
            presence = presence_scores(query, [memory], log_odds, asked)
            both = torch.cat([log_odds[0], maps[0]])
            supports_say, named = evidence.follow_edges(both, case.query).cpu()
            said = (
                memory.agreement,
                memory.named,
                torch.zeros(()) if asked is None else asked[0, 0],
            )
            coverage = _coverage(case, (supports_say.shape[0], supports_say.shape[1]))
            trials.append(
                _Trial(
                    case.name,
                    name == case.name,
                    coverage,
                    supports_say,
                    named,
                    said,
                    float(presence),
                )
            )
        told()
    return trials


def _curve(trials: Sequence[_Trial], settings: ModelSettings) -> NDArray[np.float64]:
    """MIoU in percent at each threshold, under known and unknown names together."""

    def figure(own: Sequence[_Trial]) -> NDArray[np.float64]:
        answers, levels = [], []
        for trial in own:
            weight = settings.text_weight * float(name_trust(*trial.said, settings.text_level))
            log_odds = trial.log_odds + weight * trial.named
            there = present(torch.tensor(trial.presence), torch.tensor(settings.presence))
            more = lift(log_odds.max(), there, _LEVELS, settings.lift)
            answers.append((trial.name, trial.coverage, log_odds.sigmoid()))
            # Scores that reach these levels reach the thresholds once lifted; they ascend.
            levels.append((_LEVELS.logit() - more).sigmoid().cummax(0).values)
        return _miou(answers, levels)

    known, unknown = ([t for t in trials if t.known == one] for one in (True, False))
    return KNOWN * figure(known) + (1 - KNOWN) * figure(unknown) if unknown else figure(known)


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
        answers = [(name, coverage, z[rows].mean(0)[0].sigmoid()) for name, coverage, z in seen]
        return float(_miou(answers).max())

    return max((*combinations(upper, 1), *combinations(upper, 2)), key=quality)


def _miou(
    answers: Sequence[_Answer], levels: Sequence[Tensor] | None = None
) -> NDArray[np.float64]:
    """Class-accumulated mIoU in percent at each threshold, or at levels of each answer's own."""
    counts: dict[str, Tensor] = {}
    own_levels = [_LEVELS] * len(answers) if levels is None else levels
    for (name, coverage, scores), ascending in zip(answers, own_levels, strict=True):
        # Index n is reached by scores of at least n thresholds.
        reached = torch.bucketize(scores.flatten().cpu(), ascending, right=True)
        empty = torch.zeros(len(ascending) + 1)
        inside, outside = (
            empty.index_add(0, reached, part).flip(0).cumsum(0).flip(0)[1:]
            for part in coverage.flatten(1)
        )
        own = torch.stack([inside, outside + coverage[0].sum()])
        counts[name] = counts[name] + own if name in counts else own
    shares = torch.stack([hit / union.clamp_min(1e-9) for hit, union in counts.values()])
    return np.asarray(100 * shares.mean(0).double().numpy())


def _coverage(case: Case, grid: tuple[int, int]) -> Tensor:
    """Share of each cell that is the class and that is not, without what is ignored, (2, h, w)."""
    parts = (case.truth == 1, (case.truth != 1) & (case.truth != IGNORE))
    return torch.stack([mask_coverage(part, grid) for part in parts])


def constants(settings: ModelSettings) -> dict[str, Any]:
    """What `calibrate` chooses, as it is written."""
    names = ("blocks", "text_weight", "text_level", "presence", "lift", "threshold")
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
    source = None if tower.source is None else Path(tower.source).resolve()
    if source == folder.resolve() and folder.is_dir():  # "builtin" is no folder of the user's
        written = read_json(folder / SETTINGS_FILE) or {}
        write_json(written | constants(settings), folder / SETTINGS_FILE)
    elif isinstance(tower, Encoder):
        save_clip(LoadedClip(tower.model, tower.tokenizer, settings), folder)
    else:
        save_model(tower.model, None, settings, folder)
