"""Training episodes: each one a pure function of (seed, number), augmented or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from piclip.clip.cache import MemoryCache, content_key
from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode, FewShotView, base_class_map
from piclip.decoders.base import FewShotDecoder
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.views import View, normalise, whole_view
from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU
from piclip.evaluation.predictor import contrast_of, truth_of
from piclip.training.augment import draw_view
from piclip.training.loop import Phase, moved

if TYPE_CHECKING:
    from piclip.training.recipe import Recipe

VALIDATION_SEED = 321  # the same episodes for every seed of a training


@dataclass(frozen=True, eq=False)
class TrainingEpisode:
    """One episode as decoder and CLIP see it; S is the recipe's size.

    Attributes:
        inputs: What `EpisodicObjective` takes of it, priors aside, before it is stacked:
            ``query`` in [0, 1], (3, S, S); ``supports`` (K, 3, S, S); ``masks`` uint8 (K, S, S), 1
            object, 0 background, 255 outside the image or to be ignored; ``target`` the same for
            the query, uint8 (S, S); ``base_target``, labels of the base classes, uint8 (S, S),
            without a base learner the target; ``base_class``, the place of the class among the
            base classes, 0 where the view's are novel.
        others: Names of the query's further classes.
        view: How the query is seen.
        source: The episode before augmentation.
    """

    inputs: dict[str, Any]
    others: tuple[str, ...]
    view: View
    source: Episode


class TrainingEpisodes(Dataset[TrainingEpisode]):
    """Episodes of a view by number; no number depends on another.

    Without ``augment`` every image is shown whole, for validation; with ``base_labels`` the labels
    of the base classes are made, too.
    """

    def __init__(
        self,
        view: FewShotView,
        recipe: Recipe,
        seed: int,
        *,
        augment: bool = True,
        base_labels: bool = False,
    ) -> None:
        self.view, self.recipe, self.seed = view, recipe, seed
        self.augment, self.base_labels = augment, base_labels
        self._kept = MemoryCache()

    def __getitem__(self, index: int) -> TrainingEpisode:
        """The episode of this number, 0 or more."""
        keys = self.view.episode(self.seed, index, self.recipe.shot)
        episode = self.view.load(keys)
        seen = [
            self._seen(sample, episode.class_index, (self.seed, index, number))
            for number, sample in enumerate((episode.query, *episode.supports))
        ]
        views, images, labels = zip(*seen, strict=True)
        view, base = views[0], labels[0]
        if self.base_labels:
            base = view.labels(base_class_map(self.view, episode.query.class_map))
        bases = self.view.base_classes
        inputs = {
            "query": images[0],
            "supports": torch.stack(images[1:]),
            "masks": torch.stack(labels[1:]),
            "target": labels[0],
            "base_target": base,
            "base_class": bases.index(episode.class_index) if episode.class_index in bases else 0,
        }
        others = contrast_of(episode, self.view.dataset, self.recipe.clip.candidates)
        return TrainingEpisode(inputs, others, view, episode)

    def _seen(
        self, sample: Sample, class_index: int, key: tuple[int, int, int]
    ) -> tuple[View, Tensor, Tensor]:
        height, width = sample.class_map.shape
        if self.augment:
            inside = sample.mask(class_index)
            view = draw_view(key, height, width, self.recipe.augmentation, inside)
        else:
            view = whole_view(height, width, self.recipe.augmentation.size)
        comes_back = self.recipe.augmentation.comes_back
        key_of_view = content_key(sample.key, str(class_index), view.theta)
        kept = self._kept.get(key_of_view) if comes_back else None
        if kept is None:
            truth = view.labels(truth_of(sample, class_index))
            kept = {"image": view.image(sample.image), "truth": truth}
            if comes_back:
                self._kept.put(key_of_view, kept)
        return view, kept["image"], kept["truth"]


EpisodeBatch: TypeAlias = tuple[dict[str, Tensor], tuple[TrainingEpisode, ...]]
"""The inputs of B episodes, stacked, and the episodes for what cannot be stacked."""


def collate(episodes: Sequence[TrainingEpisode]) -> EpisodeBatch:
    """Stacks episodes of one size and number of shots."""
    return default_collate([episode.inputs for episode in episodes]), tuple(episodes)


def prior_maps(maker: PriorMaker, batch: EpisodeBatch, sees: str) -> Tensor:
    """The priors of a batch, (B, 2, h, w), laid over the queries as they are seen.

    Where CLIP ``sees`` what is ``augmented`` it looks at the views; ``plain``, at the images before
    augmentation, and its maps are moved as the query was, (B, 2, S, S).
    """
    inputs, episodes = batch
    sources = [episode.source for episode in episodes]
    seen: dict[str, Any] = {key: inputs[key] for key in ("query", "supports", "masks")}
    if sees == "plain":
        seen = {
            "query": [source.query.image for source in sources],
            "supports": [[s.image for s in source.supports] for source in sources],
            "masks": [[s.mask(source.class_index) for s in source.supports] for source in sources],
        }
    names, others = [source.name for source in sources], [e.others for e in episodes]
    maps = maker.episode_priors(seen["query"], seen["supports"], seen["masks"], names, others)
    if sees == "plain":
        maps = [episode.view.maps(own) for episode, own in zip(episodes, maps, strict=True)]
    return torch.stack(maps)


class EpisodicObjective(nn.Module):
    """The loss of a decoder on a batch, as one module for data-parallel training."""

    def __init__(self, decoder: FewShotDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        query: Tensor,
        supports: Tensor,
        masks: Tensor,
        target: Tensor,
        base_target: Tensor,
        base_class: Tensor,
        priors: Tensor | None,
    ) -> dict[str, Tensor]:
        """Terms of the loss and their sum ``loss``; shapes as in `TrainingEpisode`."""
        output = self.decoder(
            normalise(query), normalise(supports), masks, priors, base_class=base_class
        )
        has_base = output.base_logits is not None
        return self.decoder.loss(output, target.long(), base_target.long() if has_base else None)


def parameter_groups(decoder: FewShotDecoder, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The decoder's trained parameters, in groups for `piclip.training.loop.build_optimizer`.

    Parts with a factor, by attribute, have a group each, all others are the first group.

    Raises:
        UsageError: A name is no trained part; it lists the parts.
    """
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            parts.setdefault(name.partition(".")[0], []).append(parameter)
    if unknown := [name for name in factors if name not in parts]:
        raise UsageError(
            f"episodic.factors: the decoder {decoder.name} trains no part {unknown[0]!r}; its "
            f"parts are {', '.join(parts)}."
        )
    plain = [p for name, part in parts.items() if name not in factors for p in part]
    own = [{"params": parts[name], "factor": factor} for name, factor in factors.items()]
    return [{"params": plain}, *own]


@torch.no_grad()
def validate(
    decoder: FewShotDecoder, view: FewShotView, recipe: Recipe, maker: PriorMaker | None
) -> float:
    """A score to select weights by: class-accumulated mIoU in [0, 1] on whole images.

    The decoder is in evaluation mode; the view is of base classes of the validation split, or of
    novel ones to repeat what published numbers did.
    """
    device = next(decoder.parameters()).device
    episodes = TrainingEpisodes(view, recipe, VALIDATION_SEED, augment=False)
    counts = FewShotIoU([view.dataset.class_names[index] for index in view.classes])
    total, size = recipe.validation.episodes, recipe.episodic.batch
    for first in range(0, total, size):
        batch = collate([episodes[i] for i in range(first, min(first + size, total))])
        inputs = moved(batch[0], device)
        priors = None if maker is None else prior_maps(maker, batch, recipe.clip.sees).to(device)
        output = decoder(
            normalise(inputs["query"]),
            normalise(inputs["supports"]),
            inputs["masks"],
            priors,
            base_class=inputs["base_class"] if view.kind == "base" else None,
        )
        found = output.logits.argmax(1).bool().cpu().numpy()
        for episode, mask, truth in zip(batch[1], found, batch[0]["target"].numpy(), strict=True):
            counts.add(episode.source.name, mask, truth)
    return counts.miou()


def episodic_phase(
    decoder: FewShotDecoder,
    view: FewShotView,
    recipe: Recipe,
    maker: PriorMaker | None,
    judged: FewShotView | None,
) -> Phase:
    """The training on episodes of a train view; another view, if there is one, judges it."""

    def inputs(batch: EpisodeBatch, device: torch.device) -> dict[str, Any]:
        maps = None if maker is None else prior_maps(maker, batch, recipe.clip.sees).to(device)
        return {**moved(batch[0], device), "priors": maps}

    return Phase(
        name="episodic",
        network=decoder,
        objective=EpisodicObjective(decoder),
        groups=parameter_groups(decoder, recipe.episodic.factors),
        dataset=TrainingEpisodes(view, recipe, recipe.seed, base_labels=decoder.knows_base_classes),
        collate=collate,
        inputs=inputs,
        settings=recipe.episodic,
        steps=recipe.episodic.steps_for(len(view.keys)),
        validate=None if judged is None else partial(validate, decoder, judged, recipe, maker),
    )
