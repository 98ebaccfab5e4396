"""What the few-shot decoders have in common.

An episode is a query image and K supports with masks. A frozen backbone gives maps of its stages
2 ("low"), 3 ("middle") and 4 ("high"). Low and middle become one reduced map, averaged over each
support's mask to a prototype; a *prior* says beforehand where the object may be in the query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.decoders.layers import (
    best_cosine,
    cross_entropy,
    masked_average,
    object_masks,
    pointwise,
)
from piclip.decoders.networks import NetworkOptions, PretrainedModule, load_strictly
from piclip.errors import UsageError
from piclip.priors.maps import min_max

Prior = Literal["imagenet", "piclip", "none"]
PRIOR_CHANNELS: dict[str, int] = {"imagenet": 1, "piclip": 2, "none": 0}


class Features(NamedTuple):
    """Maps of the backbone's stages 2, 3 and 4: (N, C, h, w) each.

    ``low`` has the size of ``middle``; ``high`` is empty where nothing reads it.
    """

    low: Tensor
    middle: Tensor
    high: Tensor

    def joined(self) -> Tensor:
        """Returns what the reductions take: the channels of ``middle``, then those of ``low``."""
        return torch.cat([self.middle, self.low], 1)

    def rows(self, rows: slice) -> Features:
        """Returns the maps of some of the N images."""
        return Features(*(maps[rows] for maps in self))

    @classmethod
    def stacked(cls, parts: Sequence[Features]) -> Features:
        """Returns the maps of all images of several parts, one part after the other."""
        return cls(*map(torch.cat, zip(*parts, strict=True)))


@dataclass(frozen=True)
class EpisodeFeatures:
    """A batch of episodes whose images have been through the backbone."""

    query: Features  # of B queries
    supports: Features  # of their B * K supports, those of the first query first
    masks: Tensor  # of the supports, (B, K, H', W'): 1 is the object; 0 and 255 are not
    priors: Tensor | None = None  # of CLIP, (B, 2, h, w), for ``prior="piclip"``
    base_class: Tensor | None = None  # in training, that among the base classes, long (B,)


@dataclass(frozen=True)
class DecoderOutput:
    """What a decoder says about a batch of queries.

    Attributes:
        logits: Scores of background and foreground, (B, 2, H, W).
        auxiliary: Further scores (B, 2, H, W) that are trained towards the same mask.
        base_logits: Scores of background and the base classes, (B, 1 + base, H, W), if the
            decoder has a base learner.
        correlations: HDMNet's per level, coarsest first, (B, h_l, w_l); trained by distillation.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    base_logits: Tensor | None = None
    correlations: tuple[Tensor, ...] = ()

    def resized(self, size: Sequence[int]) -> DecoderOutput:
        """The same with all scores at (H, W), bilinearly."""
        base = self.base_logits
        return replace(
            self,
            logits=resize(self.logits, size),
            auxiliary=tuple(resize(scores, size) for scores in self.auxiliary),
            base_logits=None if base is None else resize(base, size),
        )


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(NetworkOptions):
    """What every decoder is built with; its own class of options adds to these.

    ``config.json`` and a recipe's ``decoder`` name the same options.

    Attributes:
        prior: ``imagenet``: one channel, the cosine of high features, averaged over supports;
            ``piclip``: two channels, the refined text prior and the visual prior, given to
            the decoder; ``none``: no channel.
        width: Channels of the reduced features.
        dropout: Probability with which a channel of the reduced features is dropped in training.
    """

    prior: Prior = "imagenet"
    width: int = 256
    dropout: float = 0.5


class FewShotDecoder(PretrainedModule, ABC):
    """A decoder on a frozen backbone, for any number of supports.

    Attributes:
        knows_base_classes: Whether there is a base learner, which reads stage 4 of the query.
        prior_channels: Number of channels of the prior.
        published_visual: Which visual prior published weights take, in the words of
            `piclip.decoders.clip_priors.PriorMaker`; for weights whose training is unknown.
    """

    knows_base_classes: ClassVar[bool] = False
    published_visual: str = "plain"
    options: DecoderOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        self.prior = self.options.prior
        if self.prior not in PRIOR_CHANNELS:
            raise UsageError(f"There is no prior {self.prior!r}: choose imagenet, piclip or none.")
        self.prior_channels = PRIOR_CHANNELS[self.prior]
        self.backbone.requires_grad_(False).eval()
        both, width = sum(self.backbone.channels[:2]), self.options.width
        dropout = self.options.dropout
        self.reduce_query = nn.Sequential(*pointwise(both, width), nn.Dropout2d(dropout))
        self.reduce_support = nn.Sequential(*pointwise(both, width), nn.Dropout2d(dropout))

    def load_base_learner(self, learner: PretrainedModule) -> None:
        """Takes over the backbone of a trained `PSPNet`; ModelError if the backbones differ."""
        load_strictly(
            self.backbone,
            learner.backbone.state_dict(),
            what=f"the backbone of this {self.name}",
        )

    def forward(
        self,
        query: Tensor,
        supports: Tensor,
        masks: Tensor,
        priors: Tensor | None = None,
        base_class: Tensor | None = None,
    ) -> DecoderOutput:
        """Segments the queries: scores at their size.

        Args:
            query: Queries with ImageNet's mean and deviation removed, (B, 3, H, W).
            supports: Supports, the same way, (B, K, 3, H', W').
            masks: Their masks, (B, K, H', W'): 1 is the object; 0 and 255 are not.
            priors: For ``prior="piclip"``: refined text prior and visual prior, (B, 2, h, w).
            base_class: In training, the index of the episode's class among the base classes, long
                (B,): decoders with a base learner do not count its pixels as background.

        Raises:
            UsageError: If shapes do not fit together, or the prior is absent.
        """
        self.check_episode(query, supports, masks, priors)
        seen, shown = self.query_features(query), self.support_features(supports, masks)
        episodes = EpisodeFeatures(seen, shown, masks, priors, base_class)
        return self.decode(episodes).resized(query.shape[-2:])

    @abstractmethod
    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """Segments queries whose maps `query_features` and `support_features` returned.

        The scores have sizes of the decoder's own.
        """

    def loss(
        self, output: DecoderOutput, target: Tensor, base_target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the terms of the loss and, as ``"loss"``, their sum.

        Args:
            output: What `forward` returned.
            target: Masks of the queries, long (B, H, W): 0, 1, 255 = ignore.
            base_target: Base classes of the queries, long (B, H, W): 0 background, 255 = ignore.

        Returns:
            ``main``; ``auxiliary``, the mean over the auxiliary scores; ``base``, if there are
            base scores and a target for them; and ``loss``.
        """
        terms = {"main": cross_entropy(output.logits, target)}
        if output.auxiliary:
            losses = [cross_entropy(logits, target) for logits in output.auxiliary]
            terms["auxiliary"] = torch.stack(losses).mean()
        if output.base_logits is not None and base_target is not None:
            terms["base"] = cross_entropy(output.base_logits, base_target)
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    def check_episode(
        self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor | None
    ) -> None:
        """Raises `UsageError` where the tensors of an episode do not fit together."""
        if query.ndim != 4 or supports.ndim != 5 or supports.shape[1] < 1:
            raise UsageError(
                f"Queries are (B, 3, H, W) and supports (B, K, 3, H, W) with K of at least 1, not "
                f"{tuple(query.shape)} and {tuple(supports.shape)}."
            )
        if len(query) != len(supports):
            raise UsageError(
                f"{len(query)} queries came with supports for {len(supports)}: give every query "
                "its supports."
            )
        if masks.shape != (*supports.shape[:2], *supports.shape[-2:]):
            raise UsageError(
                f"The masks {tuple(masks.shape)} do not fit the supports {tuple(supports.shape)}: "
                "give one mask (H, W) per support."
            )
        if self.prior == "piclip" and priors is None:
            raise UsageError(
                "This decoder was built with prior='piclip': give it the priors (B, 2, h, w)."
            )
        if priors is not None and priors.shape[:2] != (len(query), 2):
            raise UsageError(
                f"The priors {tuple(priors.shape)} should be (B, 2, h, w), B = {len(query)}: the "
                "refined text prior and the visual prior."
            )

    @torch.no_grad()
    def query_features(self, query: Tensor) -> Features:
        """Returns the backbone's maps of the queries, (B, 3, H, W) -> (B, C, h, w).

        Where neither the prior nor a base learner reads ``high``, it is empty, (0, C, h, w).
        """
        high = self.prior == "imagenet" or self.knows_base_classes
        return Features(*self.backbone.read(query, high=high))

    @torch.no_grad()
    def support_features(self, supports: Tensor, masks: Tensor) -> Features:
        """Returns the backbone's maps of the supports, (B, K, 3, H, W) -> (B * K, C, h, w).

        ``high`` is stage 4 of stage 3 inside the masks (B, K, H, W). Only the ImageNet prior reads
        it: with another prior it is empty.
        """
        inside = object_masks(masks, masks.shape[-2:])
        high = self.prior == "imagenet"
        return Features(*self.backbone.read(supports.flatten(0, 1), inside, high=high))

    def prototypes(self, supports: Features, masks: Tensor) -> Tensor:
        """Returns the prototype of each support in the reduced features, (B, K, width)."""
        reduced = self.reduce_support(supports.joined())
        inside = object_masks(masks, reduced.shape[-2:])
        return masked_average(reduced, inside).reshape(*masks.shape[:2], -1)

    @torch.no_grad()
    def imagenet_priors(self, query: Features, supports: Features, masks: Tensor) -> Tensor:
        """Returns PFENet's prior of each support in [0, 1], (B, K, h, w), at the middle size.

        It is the best cosine of each query position with the support, stretched to [0, 1]. The
        supports' high features are masked once more, with the mask resized to their size.
        """
        inside = object_masks(masks, supports.high.shape[-2:])
        high = (supports.high * inside).unflatten(0, masks.shape[:2])
        maps = [min_max(best_cosine(query.high, shot)) for shot in high.unbind(1)]
        return resize(torch.cat(maps, 1), query.middle.shape[-2:])

    def prior_maps(self, episodes: EpisodeFeatures, weights: Tensor) -> Tensor:
        """Returns the prior of each query at the size of its middle features.

        The weights of the supports, (B, K), sum to one; the prior is (B, prior_channels, h, w).
        """
        middle, priors = episodes.query.middle, episodes.priors
        if self.prior == "imagenet":
            maps = self.imagenet_priors(episodes.query, episodes.supports, episodes.masks)
            mean: Tensor = (weights[:, :, None, None] * maps).sum(1, keepdim=True)
            return mean
        if self.prior == "piclip" and priors is not None:
            return resize(priors.to(middle.dtype), middle.shape[-2:])
        return middle[:, :0]
