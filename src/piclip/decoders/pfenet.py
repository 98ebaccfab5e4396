"""PFENet: the query, prototype and prior joined at several scales, coarse ones last.

    for each scale: [pooled query, prototype, prior] -> merge -> + the scale before -> refine
    all scales at full size -> fuse -> refine -> classifier -> logits

Source: Tian et al., "Prior Guided Feature Enrichment Network for Few-Shot Segmentation",
TPAMI 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.decoders.base import DecoderOptions, DecoderOutput, EpisodeFeatures, FewShotDecoder
from piclip.decoders.layers import mask_classifier, pointwise, two_convolutions
from piclip.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PFENetOptions(DecoderOptions):
    """What PFENet is built with; all its layers have ``width`` channels.

    Attributes:
        scales: Sizes at which query and support meet, in order. An int is the side of a square
            grid (it may exceed the map); a float up to 1.0 is a part of the map's height and
            width, rounded down, at least one pixel.
    """

    scales: Sequence[int | float] = (60, 30, 15, 8)


class PFENet(FewShotDecoder):
    """PFENet for any number of shots; prototypes and priors are averaged over them."""

    name = "pfenet"
    Options = PFENetOptions
    options: PFENetOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        width, scales = self.options.width, self.options.scales
        if not scales or any(s <= 0 or (isinstance(s, float) and s > 1) for s in scales):
            raise UsageError(
                f"The scales {list(scales)} are not possible: give whole numbers of bins from 1, "
                "or parts of the map as decimal numbers up to 1.0."
            )
        self.scales = tuple(scales)
        count, joined = len(self.scales), 2 * width + self.prior_channels
        self.merge = nn.ModuleList(pointwise(joined, width) for _ in range(count))
        self.interscale = nn.ModuleList(pointwise(2 * width, width) for _ in range(count - 1))
        self.refine = nn.ModuleList(two_convolutions(width) for _ in range(count))
        self.inner_classifiers = nn.ModuleList(mask_classifier(width) for _ in range(count))
        self.fuse = pointwise(count * width, width)
        self.refine_fused = two_convolutions(width)
        self.classifier = mask_classifier(width)

    def decode(self, episodes: EpisodeFeatures) -> DecoderOutput:
        """See `FewShotDecoder.decode`; ``auxiliary`` holds the inner scores, one per scale.

        The base class is not used, for there is no base learner.
        """
        query, masks = episodes.query, episodes.masks
        weights = query.middle.new_full(masks.shape[:2], 1 / masks.shape[1])
        prior = self.prior_maps(episodes, weights)
        prototype = self.prototypes(episodes.supports, masks).mean(1)[:, :, None, None]
        reduced = self.reduce_query(query.joined())

        pyramid, inner = self.enrich(reduced, prototype, prior)
        fused = self.fuse(torch.cat(pyramid, 1))
        return DecoderOutput(self.classifier(fused + self.refine_fused(fused)), tuple(inner))

    def enrich(
        self, query: Tensor, prototype: Tensor, prior: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Joins query, prototype and prior at every scale, each with the result of the one before.

        Reduced features (B, width, h, w), prototypes (B, width, 1, 1) and priors
        (B, prior_channels, h, w) give for each scale its features, resized to (B, width, h, w), and
        its own scores of background and object at the size of the scale.
        """
        height, width = query.shape[-2:]
        pyramid: list[Tensor] = []
        inner: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            size = grid_size(scale, height, width)
            pooled = F.adaptive_avg_pool2d(query, size)
            parts = [pooled, prototype.expand_as(pooled), resize(prior, size)]
            merged = self.merge[index](torch.cat(parts, 1))
            if pyramid:
                before = resize(pyramid[-1], size)
                merged = merged + self.interscale[index - 1](torch.cat([merged, before], 1))
            merged = merged + self.refine[index](merged)
            inner.append(self.inner_classifiers[index](merged))
            pyramid.append(resize(merged, (height, width)))
        return pyramid, inner


def grid_size(scale: int | float, height: int, width: int) -> tuple[int, int]:
    """Returns height and width of a scale: an int is both, a float a part of the map's."""
    if isinstance(scale, float):
        return max(1, int(height * scale)), max(1, int(width * scale))
    return scale, scale
