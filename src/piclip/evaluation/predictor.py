"""What is evaluated: a few-shot segmenter, as people use it, on the queries of episodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from piclip.clip.cache import MemoryCache, weights_hash
from piclip.clip.encoder import Encoder
from piclip.clip.prompts import Synonyms
from piclip.clip.towers import VisualTower
from piclip.datasets.dataset import Dataset, Sample
from piclip.datasets.few_shot import Episode
from piclip.datasets.protocols import Measure
from piclip.decoders.scorer import DecoderScorer
from piclip.errors import UsageError
from piclip.evaluation.records import Method
from piclip.io.images import IGNORE
from piclip.io.supports import Support
from piclip.results import MIN_PRESENCE, Segmentation, priors_of
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer

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

CONTRAST, FUSED, FINAL = "contrast", "fused", "final"
"""Further maps of a query: the supports' own word, that and the name's on the patch grid, and the
finished scores."""

_MOST_FITS = 8  # sets of supports that are kept; a decoder's take up to 50 MB a support
_SUFFIXES = {"plain": "", "refined": "_refined"}


@dataclass(frozen=True, eq=False)
class Predictor:
    """A segmenter that is fitted with an episode's supports and segments its query.

    The same supports are encoded once; queries are segmented one at a time, so that no figure
    depends on which come together.

    Attributes:
        segmenter: With or without training; what it has learned before is not touched.
        prior: One of `PRIORS`: the mean of these maps is thresholded, only without training. None:
            the finished mask.
        threshold: Least score of the class; None takes the segmenter's own, which is meant for the
            finished mask.
        synonyms: What classes are called in the prompts, by name.
        recipe: Of the training, for the record.
        source: Loads the segmenter again in other processes, such as a ``partial`` of
            `FewShotSegmenter.from_pretrained`; None where that cannot be done.

    Raises:
        UsageError: An unknown prior.
    """

    segmenter: FewShotSegmenter
    prior: str | None = None
    threshold: float | None = None
    synonyms: Synonyms = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    source: Callable[[], FewShotSegmenter] | None = None
    _fitted: OrderedDict[tuple[str, ...], FewShotSegmenter] = field(
        default_factory=OrderedDict, init=False
    )

    def __post_init__(self) -> None:
        if self.prior is not None and self.prior not in PRIORS:
            raise UsageError(f"There is no prior {self.prior!r}; choose from {', '.join(PRIORS)}.")

    @classmethod
    def load(cls, source: Callable[[], FewShotSegmenter], **fields: Any) -> Predictor:  # noqa: ANN401
        """Loads the segmenter from its source, here and in each worker; see the class."""
        return cls(source(), source=source, **fields)

    @property
    def reload(self) -> Callable[[], Predictor] | None:
        """Makes the same predictor in another process; None where that cannot be done."""
        if self.source is None:
            return None
        names = ("prior", "threshold", "synonyms", "recipe")
        return partial(Predictor.load, self.source, **{name: getattr(self, name) for name in names})

    @property
    def method(self) -> Method:
        """Names, options and hashes of what segments."""
        scorer = self.segmenter.scorer
        if isinstance(scorer, DecoderScorer):
            return _decoder(scorer, self.recipe, self.threshold)
        assert isinstance(scorer, TrainingFreeScorer)
        main, *others = scorer.models
        reads = scorer.encoder is not None
        text, visual = PRIORS[self.prior or "vtp+vvp+pir"] if reads else ("none", "none")
        settings: dict[str, Any] = {
            "threshold": self.least_score,
            "image_size": main.settings.image_size,
        }
        if others:
            settings["visual"] = others[0].source or "in memory"
        return Method(
            method="threshold" if self.prior else "training-free",
            prior=self.prior or ("piclip" if reads else "none"),
            text=text,
            visual=visual,
            settings=settings,
            clip=_named(main),
        )

    @property
    def least_score(self) -> float:
        """The threshold in use."""
        return self.segmenter.threshold if self.threshold is None else self.threshold

    def segment(self, episode: Episode, contrast: Sequence[str] = ()) -> Segmentation:
        """The segmenter's whole answer to an episode, whose query may be `blind`.

        The contrast is what `contrast_of` gives.
        """
        fitted, images = self._fit(episode), [episode.query.image]
        return fitted.predict(images, contrast=contrast, synonyms=self.synonyms)[0]

    def predict(self, episode: Episode, contrast: Sequence[str] = ()) -> npt.NDArray[np.bool_]:
        """Where the class is said to be, bool (H, W) at the query's own size; see `segment`."""
        scores = query_map(self.segment(episode, contrast), self.prior or FINAL)
        return np.asarray(scores >= self.least_score)

    def _fit(self, episode: Episode) -> FewShotSegmenter:
        key = (episode.name, *(support.key for support in episode.supports))
        if key not in self._fitted:
            supports = [Support(s.image, s.mask(episode.class_index)) for s in episode.supports]
            fitted = self.segmenter.unfitted()
            fitted.fit(supports, name=episode.name, synonyms=self.synonyms)
            self._fitted[key] = fitted
            if len(self._fitted) > _MOST_FITS:
                self._fitted.popitem(last=False)
        self._fitted.move_to_end(key)
        return self._fitted[key]


def load_decoder(folder: str | Path, **options: Any) -> FewShotSegmenter:  # noqa: ANN401
    """A trained decoder whose CLIP keeps the features of images, which come back in episodes.

    Arguments are those of `DecoderScorer.load`.
    """
    return FewShotSegmenter(DecoderScorer.load(folder, cache=MemoryCache(), **options))


def query_map(result: Segmentation, name: str) -> npt.NDArray[np.float32]:
    """One map of a segmentation of one class, (H, W) in [0, 1] at the image's own size.

    It is `FINAL`, zero where the class is held to be absent; or `CONTRAST`, `FUSED` or one of
    `PRIORS`, the mean of whose maps is enlarged bilinearly.

    Raises:
        UsageError: The segmenter makes no such map: a trained decoder makes none, and only
            evidence="published" makes VVP.
    """
    if name == FINAL:
        absent = result.presence is not None and result.presence[0] < MIN_PRESENCE
        return np.zeros(result.size, dtype=np.float32) if absent else result.score_maps[0]
    there = priors_of(result).maps()
    kinds = zip(("visual_text", "visual_visual"), PRIORS.get(name, ()), strict=False)
    fields = [prior + _SUFFIXES[kind] for prior, kind in kinds if kind != "none"] or [name]
    if missing := [one for one in fields if one not in there]:
        raise UsageError(f"The segmenter makes no map {missing[0]}, but only {', '.join(there)}.")
    mean = torch.from_numpy(np.mean([there[one] for one in fields], axis=0))
    enlarged = F.interpolate(mean[None], size=result.size, mode="bilinear", align_corners=False)
    return np.asarray(enlarged[0, 0].numpy())


def prior_name(text: str, visual: str) -> str:
    """The name in `PRIORS` of a pair of maps, or "none"; raw is plain, in the scale of HDMNet."""
    kinds = text, "plain" if visual == "raw" else visual
    names = {kinds: name for name, kinds in PRIORS.items()} | {("none", "none"): "none"}
    return names.get(kinds, f"vtp {text}, vvp {kinds[1]}")


def blind(episode: Episode) -> Episode:
    """The episode without the truth of its query."""
    query = episode.query
    unlabelled = replace(query, class_map=np.zeros_like(query.class_map), masks=None)
    return replace(episode, query=unlabelled)


def contrast_of(episode: Episode, dataset: Dataset, candidates: str) -> tuple[str, ...]:
    """Names to tell the episode's class from.

    With candidates "oracle" what else the truth of the query shows, with "target" none.
    """
    if candidates == "target":
        return ()
    others = (pair for pair in enumerate(dataset.class_names) if pair[0] != episode.class_index)
    return tuple(name for index, name in others if episode.query.mask(index).any())


def truth_of(sample: Sample, class_index: int) -> npt.NDArray[np.uint8]:
    """An image's labels of one class, uint8 (H, W): 1 the class, 0 anything else, 255 ignore."""
    inside = sample.mask(class_index).astype(np.uint8)
    return np.where(sample.class_map == IGNORE, np.uint8(IGNORE), inside)


def as_measured(
    scores: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], measure: Measure
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Scores and truth of a class, (H, W), as a protocol compares them.

    Where it lays them on a square, scores are resized bilinearly and the truth to the nearest
    pixel; where it counts what is ignored, 255 becomes 0.
    """
    if not measure.ignore:
        truth = np.where(truth == IGNORE, np.uint8(0), truth)
    if measure.side is None:
        return scores, truth
    size = (measure.side, measure.side)
    given, labels = (torch.from_numpy(a)[None, None].float() for a in (scores, truth))
    laid = F.interpolate(given, size, mode="bilinear", align_corners=True)
    nearest = F.interpolate(labels, size, mode="nearest")
    return np.asarray(laid[0, 0].numpy()), nearest[0, 0].numpy().astype(np.uint8)


def _decoder(
    scorer: DecoderScorer, recipe: Mapping[str, Any] | None, threshold: float | None
) -> Method:
    decoder, maker = scorer.decoder, scorer.maker
    settings: dict[str, Any] = {"size": scorer.size}
    if threshold is not None:
        settings["threshold"] = threshold
    if maker is not None:
        settings["clip_sees"] = scorer.sees
    return Method(
        method=decoder.name,
        prior=decoder.prior if maker is None else prior_name(maker.text, maker.visual),
        backbone=decoder.options.backbone,
        text=None if maker is None else maker.text,
        visual=None if maker is None else maker.visual,
        settings=settings,
        recipe=recipe,
        clip=None if maker is None else _named(maker.encoder),
        weights_sha256=weights_hash(decoder),
    )


def _named(model: Encoder | VisualTower) -> dict[str, str]:
    return {"name": model.source or "in memory", "sha256": weights_hash(model.model)}
