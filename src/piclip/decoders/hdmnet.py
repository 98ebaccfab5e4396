"""HDMNet: hierarchical dense matching of query and supports, joined with a base learner.

    stages 2, 3 -> reduction -> with prototype and 10 x prior -> merge to the matching's width
    -> HierarchicalMatching (the prior again, on every level) -> meta logits
    stage 4 -> base learner -> what else is known in the query -> ensemble with meta -> logits

Source: Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation",
CVPR 2023; with ``prior="piclip"`` the decoder of PI-CLIP (Wang et al., CVPR 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.decoders.backbones import resize
from piclip.decoders.base import DecoderOutput, EpisodeFeatures, Features
from piclip.decoders.ensemble import (
    Ensemble,
    EnsembleDecoder,
    EnsembleOptions,
    ShotWeights,
    gram_distances,
    known_elsewhere,
)
from piclip.decoders.hierarchical_matching import (
    HierarchicalMatching,
    MatchingOptions,
    correlation_distillation,
)
from piclip.decoders.layers import best_cosine, masked_average, object_masks, pointwise
from piclip.errors import UsageError

PRIOR_GAIN = 10.0  # scales the prior where it meets the reduced features


@dataclass(frozen=True, kw_only=True)
class HDMNetOptions(MatchingOptions, EnsembleOptions):
    """What HDMNet is built with; published checkpoints are of 1 or 5 shots."""


class HDMNet(EnsembleDecoder):
    """HDMNet with its own or PI-CLIP's priors, for any number of shots.

    The prior maps are two channels: with ``imagenet`` the best cosine of each query position with
    the masked supports, in the features of the base learner and of stage 4, averaged over shots,
    as HDMNet publishes it; with ``piclip`` the refined text prior and the visual prior. With
    ``published_shots`` the network has the channels of the checkpoints published for that many
    shots instead (see `prior_channels`); it still takes any number. As published, the
    matching sums over the object's positions in all shots, so that a support given twice is not
    quite like one given once (see `piclip.decoders.hierarchical_matching.MaskedMatching`).
    """

    name = "hdmnet"
    Options = HDMNetOptions
    options: HDMNetOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        both, matching_width = 2 * self.options.width, self.options.matching_width
        shots = self.options.published_shots
        if shots is not None:
            self.published_visual = "raw"
        if self.prior == "imagenet":
            self.prior_channels = 2
        elif self.prior == "piclip" and shots is not None:
            self.prior_channels = 2 + 2 * shots
        self.merge_query = pointwise(both + self.prior_channels, matching_width)
        self.merge_support = pointwise(both, matching_width)
        self.matching = HierarchicalMatching(self.options, self.prior_channels)
        self.shot_weights = ShotWeights(shots)
        self.ensemble = Ensemble()

    def check_episode(
        self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor | None
    ) -> None:
        """See `EnsembleDecoder.check_episode`; there may be several visual priors."""
        pair = None if priors is None else priors[:, :2]
        super().check_episode(query, supports, masks, pair)

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See `EnsembleDecoder.decode`; ``auxiliary`` holds the scores of the matching alone.

        Published HDMNet was trained on the visual prior's raw cosines. A network in published form
        takes 1, 2 (one per block, CLIP's last first) or all visual priors (those of the last block
        for every shot, then the block before).

        Raises:
            UsageError: Another number of visual priors.
        """
        query, supports = episodes.query, episodes.supports
        with torch.no_grad():
            known = self._known(query.high)
            base_logits = self.base_learner.classifier(self.base_learner.fuse[2:](known))
            elsewhere = known_elsewhere(base_logits, episodes.base_class)
            prior = self._prior(episodes, known)
        meta, correlations = self._match(query, supports, episodes.masks, prior)
        distances = gram_distances(query.low, supports.low)
        distance = (self.shot_weights(distances) * distances).sum(1)
        logits = self.ensemble(meta, distance, resize(elsewhere, meta.shape[-2:]))
        return DecoderOutput(logits, (meta,), base_logits, correlations)

    @torch.no_grad()
    def support_features(self, supports: Tensor, masks: Tensor) -> Features:
        """Returns the backbone's maps of the masked supports, (B * K, C, h, w).

        HDMNet masks the image itself: outside the object it is ImageNet's mean colour. Stage 4 of
        the supports serves the ``imagenet`` prior alone: without it ``high`` is empty.
        """
        objects = (masks == 1).unsqueeze(2)
        shown = (supports * objects).flatten(0, 1)
        return Features(*self.backbone.read(shown, high=self.prior == "imagenet"))

    def _known(self, high: Tensor) -> Tensor:
        """The base learner's map before its last ReLU: stage 4 -> (N, base_width, h, w)."""
        known: Tensor = self.base_learner.fuse[:2](self.base_learner.pooling(high))
        return known

    def _match(
        self, seen: Features, shown: Features, masks: Tensor, prior: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Reduces, adds prototypes and prior, and matches; returns logits and correlations."""
        query = self.reduce_query(seen.joined())
        support = self.reduce_support(shown.joined())
        size = support.shape[-2:]
        prototypes = masked_average(support, object_masks(masks, size))  # (B K, C)
        support = self.merge_support(torch.cat([support, _spread(prototypes, size)], 1))
        mean = prototypes.unflatten(0, masks.shape[:2]).mean(1)
        parts = [query, _spread(mean, query.shape[-2:])]
        if prior is not None:
            prior = resize(prior, query.shape[-2:])
            parts.append(PRIOR_GAIN * prior)
        merged = self.merge_query(torch.cat(parts, 1))
        support = support.unflatten(0, masks.shape[:2])
        logits, correlations = self.matching(merged, support, masks, prior)
        return logits, correlations

    def _prior(self, episodes: EpisodeFeatures, known: Tensor) -> Tensor | None:
        """Returns the prior's channels, (B, prior_channels, h, w), or None for no prior."""
        seen, shown, masks = episodes.query, episodes.supports, episodes.masks
        priors = episodes.priors
        if self.prior == "imagenet":
            pairs = ((known, self._known(shown.high)), (seen.high, shown.high))
            maps = [
                mean_best_cosine(query, support.unflatten(0, masks.shape[:2]), masks)
                for query, support in pairs
            ]
            return torch.cat(maps, 1)
        if self.prior == "none" or priors is None:
            return None
        text_copies = 1 if self.options.published_shots is None else 2
        wanted = self.prior_channels - text_copies
        given = priors.shape[1] - 1
        if given not in {1, min(wanted, 2), wanted}:
            raise UsageError(
                f"This HDMNet takes the text prior and {wanted} visual priors but got {given}."
            )
        text = priors[:, :1].repeat(1, text_copies, 1, 1)
        visual = priors[:, 1:].repeat_interleave(wanted // given, dim=1)
        return torch.cat([text, visual], 1).to(seen.middle.dtype)

    def loss(
        self, output: DecoderOutput, target: Tensor, base_target: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Adds ``distillation``; the term of the frozen base learner is there to be watched."""
        terms = super().loss(output, target, base_target)
        distillation = correlation_distillation(output.correlations, target)
        return {**terms, "distillation": distillation, "loss": terms["loss"] + distillation}


def mean_best_cosine(query: Tensor, supports: Tensor, masks: Tensor) -> Tensor:
    """Returns the best cosine of each query position with any position of a masked support.

    It is averaged over the supports and, unlike PFENet's prior, not stretched to [0, 1]; positions
    outside a mask, (B, K, H, W), 1 is the object, count as 0. The query's maps (B, C, h, w) and the
    supports' (B, K, C, h', w') give cosines (B, 1, h, w).
    """
    inside = F.interpolate((masks == 1).float(), supports.shape[-2:], mode="nearest")
    masked = supports * inside.unsqueeze(2)
    return torch.stack([best_cosine(query, support) for support in masked.unbind(1)]).mean(0)


def _spread(prototypes: Tensor, size: torch.Size) -> Tensor:
    return prototypes[:, :, None, None].expand(-1, -1, *size)
