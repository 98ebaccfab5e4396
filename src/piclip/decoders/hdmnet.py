"""HDMNet: hierarchical dense matching of query and supports, joined with a base learner.

    features of stages 2, 3 -> reduction -> + prototype (+ 10 x prior) -> merge to the matching width
    -> HierarchicalMatching (the prior again, on every level) -> meta logits
    stage 4 -> base learner of PSPNet -> what else is known in the query -> ensemble -> logits

Source: Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation",
CVPR 2023; with ``prior="piclip"`` the decoder of PI-CLIP (Wang et al., CVPR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.decoders.base import (
    DecoderOutput,
    Features,
    FewShotDecoder,
    Prior,
    masked_average,
    object_masks,
)
from piclip.decoders.hierarchical_matching import HierarchicalMatching, correlation_distillation
from piclip.errors import UsageError

PRIOR_GAIN = 10.0
"""Scales the prior where it meets the reduced features."""


@dataclass(frozen=True)
class HDMNetOutput(DecoderOutput):
    """A decoder's output with the correlations that the distillation compares.

    Attributes:
        correlations: Per level, coarsest first, (B, h_l, w_l).
    """

    correlations: tuple[Tensor, ...] = ()


class HDMNet(FewShotDecoder):
    """HDMNet with its own or PI-CLIP's priors, for any number of shots.

    The prior maps are two channels: with ``imagenet`` the best cosine of each query position with
    the masked supports, in the features of the base learner and of stage 4, averaged over shots,
    as HDMNet publishes it; with ``piclip`` the refined text prior and the visual prior. With
    ``published_shots`` the network has the channels of the checkpoints published for that many
    shots instead (see :attr:`prior_channels`); it still takes any number.

    Args:
        backbone: Name of the backbone.
        backbone_options: Its options.
        prior: Which prior enters: ``imagenet``, ``piclip`` or ``none``.
        base_classes: Number of classes the base learner knows, without background.
        width: Channels of the reduced features.
        dropout: Probability with which a channel of the reduced features is dropped.
        matching_width: Channels of the matching.
        heads: Attention heads of its encoder per level, the finest first.
        reductions: Side of the patches that are one key of the attention, per level.
        match_heads: Heads of the matching.
        blocks: Encoder blocks per level.
        expansion: Hidden over plain width in the matching.
        matching_dropout: Dropout inside the matching.
        published_shots: 1 or 5 for the form of the published checkpoints; None for our own.

    Raises:
        UsageError: If a name is unknown, or the sizes do not fit together.
    """

    name = "hdmnet"

    def __init__(
        self,
        *,
        backbone: str = "resnet50",
        backbone_options: dict[str, Any] | None = None,
        prior: Prior = "imagenet",
        base_classes: int = 15,
        width: int = 256,
        dropout: float = 0.5,
        matching_width: int = 64,
        heads: Sequence[int] = (2, 4, 8),
        reductions: Sequence[int] = (4, 2, 1),
        match_heads: int = 2,
        blocks: int = 2,
        expansion: int = 4,
        matching_dropout: float = 0.1,
        published_shots: int | None = None,
    ) -> None:
        """Builds the frozen backbone and base learner, the matching and the ensemble."""
        super().__init__(
            backbone=backbone,
            backbone_options=backbone_options,
            prior=prior,
            width=width,
            dropout=dropout,
        )
        self.published_shots = published_shots
        self.prior_channels = _prior_channels(prior, published_shots)
        self.base_learner = PyramidHead(self.backbone.channels[2], base_classes + 1)
        self.base_learner.requires_grad_(False).eval()
        self.merge_query = _merge(2 * width + self.prior_channels, matching_width)
        self.merge_support = _merge(2 * width, matching_width)
        self.matching = HierarchicalMatching(
            matching_width,
            self.prior_channels,
            heads=heads,
            reductions=reductions,
            match_heads=match_heads,
            blocks=blocks,
            expansion=expansion,
            dropout=matching_dropout,
        )
        self.ensemble = Ensemble(published_shots)
