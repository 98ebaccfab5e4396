"""What is evaluated: any predictor, and those that need no training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from piclip.clip.cache import weights_hash
from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode, FewShotView
from piclip.errors import UsageError
from piclip.evaluation.metrics import ClassIoU
from piclip.io.images import IGNORE
from piclip.io.supports import Support
from piclip.results import Priors, Segmentation, priors_of
from piclip.scorer import Memory
from piclip.segmenter import FewShotSegmenter

PRIORS: dict[str, tuple[str, str]] = {
    "vtp": ("plain", "none"),
    "vvp": ("none", "plain"),
    "vtp+pir": ("refined", "none"),
    "vvp+pir": ("none", "refined"),
    "vtp+vvp": ("plain", "plain"),
    "piclip": ("refined", "plain"),
    "vtp+vvp+pir": ("refined", "refined"),
}
"""Names of the rows of the ablation: kinds of the visual-text and of the visual-visual map."""

THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))
_MOST_MEMORIES = 64
_FIELDS = {
    ("text", "plain"): "visual_text",
    ("text", "refined"): "visual_text_refined",
    ("visual", "plain"): "visual_visual",
    ("visual", "refined"): "visual_visual_refined",
}


@dataclass(frozen=True)
class Method:
    """What a predictor is, in the words of `piclip.evaluation.records.Evaluation`."""

    method: str
    prior: str
    backbone: str | None = None
    text: str | None = None
    visual: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    clip: Mapping[str, str] | None = None
    weights_sha256: str | None = None


class Predictor(Protocol):
    """Answers episodes whose query has no truth.

    Attributes:
        method: What it is.
        reload: Makes the same predictor in another process; None where that cannot be done.
    """

    @property
    def method(self) -> Method: ...  # noqa: D102 - described above
    @property
    def reload(self) -> Callable[[], Predictor] | None: ...  # noqa: D102

    def predict(
        self, episodes: Sequence[Episode], others: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.bool_]]:
        """Segments the queries.

        Args:
            episodes: Any number, all with the same number of supports; the class maps of the
                queries are blank.
            others: Names of further classes to tell the episode's class from; empty except with
                candidates "oracle".

        Returns:
            Where the class is, bool (H, W) at the query's own size, one per episode.
        """
        ...


def prior_name(text: str, visual: str) -> str:
    """The name in `PRIORS` of a pair of maps, or "none"; raw is plain, in the scale of HDMNet."""
    visual = "plain" if visual == "raw" else visual
    for name, kinds in PRIORS.items():
        if kinds == (text, visual):
            return name
    if (text, visual) == ("none", "none"):
        return "none"
    return f"vtp {text}, vvp {visual}"


class TrainingFree:
    """The segmenter's finished mask, or some of its priors cut at one threshold.

    What was learned from supports is kept, so the same supports are encoded once.

    Args:
        segmenter: A segmenter; what it has learned before is not touched.
        prior: One of `PRIORS`: the mean of these maps is thresholded. None: the finished mask.
        threshold: Least score of the class; None takes the model's own, which is meant for the
            finished mask.
        wordings: What classes are called in the prompts, by name.

    Raises:
        UsageError: An unknown prior.
    """

    def __init__(
        self,
        segmenter: FewShotSegmenter,
        *,
        prior: str | None = None,
        threshold: float | None = None,
        wordings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if prior is not None and prior not in PRIORS:
            raise UsageError(f"There is no prior {prior!r}; choose from {', '.join(PRIORS)}.")
        self.encoder = segmenter.encoder
        self.segmenter = FewShotSegmenter(segmenter.encoder)
        self.prior, self.wordings = prior, dict(wordings or {})
        self.threshold = self.encoder.settings.threshold if threshold is None else threshold
        self._memories: OrderedDict[tuple[str, ...], Memory] = OrderedDict()

    @property
    def method(self) -> Method:
        """The method's name, the maps used, the threshold and the CLIP."""
        text, visual = PRIORS["vtp+vvp+pir" if self.prior is None else self.prior]
        encoder = self.encoder
        return Method(
            method="training-free" if self.prior is None else "threshold",
            prior=self.prior or "piclip",
            text=text,
            visual=visual,
            settings={"threshold": self.threshold, "image_size": encoder.image_size},
            clip={"name": encoder.source or "in memory", "sha256": weights_hash(encoder.model)},
        )

    @property
    def reload(self) -> Callable[[], Predictor] | None:
        """Loads the same CLIP again."""
        encoder = self.encoder
        if encoder.source is None:
            return None
        dtype = str(encoder.dtype).removeprefix("torch.")
        return partial(
            _load_training_free,
            (encoder.source, str(encoder.device), dtype),
            prior=self.prior,
            threshold=self.threshold,
            wordings=self.wordings,
        )

    def predict(
        self, episodes: Sequence[Episode], others: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.bool_]]:
        """See `Predictor`."""
        pairs = zip(episodes, others, strict=True)
        scores = (self.score(episode, rivals) for episode, rivals in pairs)
        return [np.asarray(score >= self.threshold) for score in scores]

    def score(self, episode: Episode, others: Sequence[str] = ()) -> npt.NDArray[np.float32]:
        """What is thresholded, (H, W) in [0, 1] at the query's own size."""
        result = self.segment(episode, others)
        if self.prior is None:
            return np.asarray(result.scores[0])
        return combined_map(priors_of(result), self.prior, result.size)

    def segment(self, episode: Episode, others: Sequence[str] = ()) -> Segmentation:
        """The segmenter's whole answer to an episode."""
        self.segmenter._memories = {episode.name: self._memory(episode)}
        images = [episode.query.image]
        return self.segmenter.predict(
            images, threshold=self.threshold, contrast=others, synonyms=self.wordings
        )[0]

    def _memory(self, episode: Episode) -> Memory:
        key = (episode.name, *(support.key for support in episode.supports))
        if key not in self._memories:
            self.segmenter.reset()
            supports = [Support(s.image, s.mask(episode.class_index)) for s in episode.supports]
            self.segmenter.fit(supports, name=episode.name, synonyms=self.wordings)
            self._memories[key] = self.segmenter._memories[episode.name]
            if len(self._memories) > _MOST_MEMORIES:
                self._memories.popitem(last=False)
        self._memories.move_to_end(key)
        return self._memories[key]


def combined_map(priors: Priors, prior: str, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Mean of the maps that a name of `PRIORS` stands for, enlarged bilinearly to (H, W)."""
    chosen = zip(("text", "visual"), PRIORS[prior], strict=True)
    maps = [getattr(priors, _FIELDS[pair]) for pair in chosen if pair in _FIELDS]
    mean = torch.from_numpy(np.mean(maps, axis=0))
    enlarged = F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False)
    return np.asarray(enlarged[0, 0].numpy())


def choose_threshold(
    predictor: TrainingFree, view: FewShotView, *, shots: int, episodes: int = 100, seed: int = 0
) -> float:
    """The threshold with the best mIoU on episodes that must not be those of the test.

    Args:
        predictor: Whose scores are thresholded.
        view: The base classes of the training split, so that no novel class is looked at.
        shots: Number of supports.
        episodes: How many episodes decide.
        seed: Of these episodes.
    """
    names = [view.dataset.class_names[index] for index in view.classes]
    meter = ClassIoU(names, THRESHOLDS)
    for number in range(episodes):
        episode = view.load(view.episode(seed, number, shots))
        truth = truth_of(episode.query, episode.class_index)
        counts = truth != IGNORE
        meter.add(episode.name, predictor.score(blind(episode))[counts], truth[counts] == 1)
    return THRESHOLDS[int(meter.miou().argmax())]


def blind(episode: Episode) -> Episode:
    """The episode without the truth of its query."""
    query = episode.query
    return replace(episode, query=replace(query, class_map=np.zeros_like(query.class_map)))


def truth_of(sample: Sample, class_index: int) -> npt.NDArray[np.uint8]:
    """An image's labels of one class, uint8 (H, W): 1 the class, 0 anything else, 255 ignore."""
    inside = sample.mask(class_index).astype(np.uint8)
    return np.where(sample.class_map == IGNORE, np.uint8(IGNORE), inside)


def _load_training_free(
    source: tuple[str, str, str],
    *,
    prior: str | None,
    threshold: float,
    wordings: Mapping[str, Sequence[str]],
) -> Predictor:
    name, device, dtype = source
    segmenter = FewShotSegmenter.from_pretrained(name, device=device, dtype=dtype)
    return TrainingFree(segmenter, prior=prior, threshold=threshold, wordings=wordings)
