"""BAM: a meta learner for the object, and a base learner that says what is not the object.

    [query, prototype, prior] -> merge -> ASPP -> fuse -> refine -> classifier -> meta logits
    stage 4 of the query -> head of PSPNet -> base logits
    meta, base and the distance of the supports -> ensemble -> logits

Source: Lang et al., "Learning What Not to Segment: A New Perspective on Few-Shot Segmentation",
CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piclip.decoders.base import DecoderOutput, EpisodeFeatures
from piclip.decoders.ensemble import (
    Ensemble,
    EnsembleDecoder,
    EnsembleOptions,
    ShotWeights,
    gram_distances,
    known_elsewhere,
)
from piclip.decoders.layers import mask_classifier, pointwise, two_convolutions


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the average of the map, a 1x1 and dilated 3x3 convolutions.

    The input and each branch have ``width`` channels.
    """

    def __init__(self, width: int, dilations: Sequence[int]) -> None:
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


@dataclass(frozen=True, kw_only=True)
class BAMOptions(EnsembleOptions):
    """What BAM is built with; all layers of its meta learner have ``width`` channels.

    With ``published_shots`` it has BAM's own weighting, for that number of shots; with another
    number the weights are then ``softmax(-distance)``.
    """

    dilations: Sequence[int] = (6, 12, 18)  # of the ASPP
    published_hidden: int = 2  # hidden channels of BAM's own weighting; 0 is a single layer


class BAM(EnsembleDecoder):
    """BAM for any number of shots.

    Prototypes, ImageNet priors and distances are averaged over the supports with weights that come
    from the distances: by default those of `piclip.decoders.ensemble.ShotWeights`.
    """

    name = "bam"
    Options = BAMOptions
    options: BAMOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        width = self.options.width
        self.merge = pointwise(2 * width + self.prior_channels, width)
        self.aspp = ASPP(width, self.options.dilations)
        self.fuse = pointwise(self.aspp.channels, width)
        self.refine = two_convolutions(width)
        self.classifier = mask_classifier(width)
        self.shot_weights = ShotWeights(self.options.published_shots, self.options.published_hidden)
        self.ensemble = Ensemble()

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See `EnsembleDecoder.decode`; ``auxiliary`` holds the meta learner's scores."""
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
