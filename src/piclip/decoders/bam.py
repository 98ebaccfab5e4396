"""BAM: a meta learner for the object, and a base learner that says what is not the object.

    [query, prototype, prior] -> merge -> ASPP -> fuse -> refine -> classifier -> meta logits
    stage 4 of the query -> head of PSPNet -> base logits
    meta, base and the distance of the supports -> ensemble -> logits

Source: Lang et al., "Learning What Not to Segment: A New Perspective on Few-Shot Segmentation",
CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from piclip.decoders.base import Prior
from piclip.decoders.ensemble import (
    Ensemble,
    EnsembleDecoder,
    build_shot_weights,
    gram_distances,
    known_elsewhere,
)
from piclip.decoders.features import EpisodeFeatures
from piclip.decoders.layers import mask_classifier, pointwise, two_convolutions
from piclip.decoders.output import DecoderOutput


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the average of the map, a 1x1 and dilated 3x3 convolutions.

    Args:
        width: Channels of the input and of each branch.
        dilations: Dilations of the 3x3 convolutions.
    """

    def __init__(self, width: int, dilations: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.average = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.branches = nn.ModuleList([nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())])
        for dilation in dilations:
            convolution = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
            self.branches.append(nn.Sequential(convolution, nn.ReLU()))
        self.channels = width * (1 + len(self.branches))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns all branches, (B, width, h, w) -> (B, channels, h, w)."""
        average = self.average(maps.mean((2, 3), keepdim=True)).expand_as(maps)
        return torch.cat([average, *(branch(maps) for branch in self.branches)], 1)


class BAM(EnsembleDecoder):
    """BAM for any number of shots.

    Prototypes, ImageNet priors and distances are averaged over the supports with weights that come
    from the distances. BAM's own weighting is a network for one number of supports; the default
    here is ``softmax(-s * distance)`` with one learnt number ``s``, for any number of supports (see
    :class:`piclip.decoders.ensemble.ShotWeights`).

    Args:
        backbone: Name of the backbone.
        backbone_options: Its options.
        prior: Which prior enters: ``imagenet``, ``piclip`` or ``none``.
        base_classes: Number of base classes of the base learner, without background.
        width: Channels of the reduced features and of all that follows.
        dropout: Probability with which a channel of the reduced features is dropped.
        base_width: Channels before the classifier of the base learner.
        dilations: Dilations of the ASPP.
        published_shots: Number of shots of a published checkpoint, to have BAM's own weighting;
            with another number of shots the weights are then ``softmax(-distance)``.
        published_hidden: Hidden channels of that weighting; 0 is a single layer.

    Raises:
        UsageError: If a name is unknown.
    """

    name = "bam"

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        prior: Prior = "imagenet",
        base_classes: int = 15,
        width: int = 256,
        dropout: float = 0.5,
        base_width: int = 512,
        dilations: Sequence[int] = (6, 12, 18),
        published_shots: int | None = None,
        published_hidden: int = 2,
    ) -> None:
        super().__init__(
            backbone=backbone,
            backbone_options=backbone_options,
            prior=prior,
            base_classes=base_classes,
            base_width=base_width,
            width=width,
            dropout=dropout,
        )
        self.merge = pointwise(2 * width + self.prior_channels, width)
        self.aspp = ASPP(width, dilations)
        self.fuse = pointwise(self.aspp.channels, width)
        self.refine = two_convolutions(width)
        self.classifier = mask_classifier(width)
        self.shot_weights = build_shot_weights(published_shots, published_hidden)
        self.ensemble = Ensemble()

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See :meth:`EnsembleDecoder.decode`; ``auxiliary`` holds the meta learner's scores."""
        query, supports = episodes.query, episodes.supports
        distances = gram_distances(query.low, supports.low)
        weights = self.shot_weights(distances)

        prior = self.prior_maps(episodes, weights)
        prototypes = self.prototypes(supports, episodes.masks)
        prototype = (weights[:, :, None] * prototypes).sum(1)[:, :, None, None]
        reduced = self.reduce_query(query.joined())
        merged = self.merge(torch.cat([reduced, prototype.expand_as(reduced), prior], 1))
        fused = self.fuse(self.aspp(merged))
        meta = self.classifier(fused + self.refine(fused))

        base = self.base_learner(query.high)
        distance = (weights * distances).sum(1)
        logits = self.ensemble(meta, distance, known_elsewhere(base, episodes.base_class))
        return DecoderOutput(logits, (meta,), base)
