"""The dense matching part of HDMNet: self-attention on three scales, masked matching on each.

Query and supports pass the same self-attention encoder, which halves the map from level to level.
On every level each query position is then matched with the *object* positions of all supports.
From the coarsest level to the finest the matched features, joined by the prior maps, are refined
and added up; a small head turns the sum into background and foreground logits.

Matching and encoding are kept apart: the encoder never sees the support mask. The features of all
shots are columns of one matching, so a network works with any number of shots.

Source: Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation",
CVPR 2023, with the prior maps of PI-CLIP (Wang et al., CVPR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.decoders.matching_attention import (
    NORM_EPS,
    EncoderBlock,
    MatchingBlock,
    PatchEmbedding,
    as_maps,
    as_tokens,
)
from piclip.errors import UsageError


@dataclass(frozen=True)
class Matching:
    """What the matching finds.

    Attributes:
        logits: (B, 2, h, w) background and foreground at the size of the query map.
        correlations: Per level, coarsest first, (B, h_l, w_l): the mean cosine of a query position
            with the supports' object positions, divided by the temperature; 0 without an object.
    """

    logits: Tensor
    correlations: tuple[Tensor, ...]


class HierarchicalMatching(nn.Module):
    """From reduced features, support masks and priors to logits.

    Args:
        channels: Channels of the feature maps, through the whole module.
        prior_channels: Number of prior maps that enter every level; 0 for none.
        heads: Attention heads of the encoder, one entry per level, finest first.
        reductions: Side of the patches that are one key of the encoder's attention, per level.
        match_heads: Heads of the matching.
        blocks: Encoder blocks per level.
        expansion: Hidden width of the feed-forward layers and heads, in units of ``channels``.
        dropout: Dropout of attention outputs and feed-forward layers.

    Raises:
        UsageError: ``channels`` is not a multiple of a number of heads, or the lengths differ.
    """

    def __init__(
        self,
        channels: int = 64,
        prior_channels: int = 2,
        heads: Sequence[int] = (2, 4, 8),
        reductions: Sequence[int] = (4, 2, 1),
        match_heads: int = 2,
        blocks: int = 2,
        expansion: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(heads) != len(reductions) or not heads:
            raise UsageError("heads and reductions of HDMNet need one entry per level each.")
        if any(channels % count for count in (*heads, match_heads)):
            raise UsageError(
                f"HDMNet's {channels} channels must be a multiple of each number of heads: "
                f"{tuple(heads)} and {match_heads}."
            )
        self.prior_channels = prior_channels
        self.levels = nn.ModuleList(
            Level(
                channels,
                prior_channels,
                stride=1 if index == 0 else 2,
                heads=heads[index],
                reduction=reductions[index],
                match_heads=match_heads,
                blocks=blocks,
                expansion=expansion,
                dropout=dropout,
            )
            for index in range(len(heads))
        )
        self.classifier = nn.Sequential(*_bottleneck(channels, channels * expansion, 2))

    def forward(
        self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor | None
    ) -> Matching:
        """Match one query with its supports.

        Args:
            query: (B, C, h, w) reduced features of the query.
            supports: (B, K, C, h, w) reduced features of the supports.
            masks: (B, K, H, W), 1 on the object, any size.
            priors: (B, P, h', w') maps that join every level; None when ``prior_channels`` is 0.

        Returns:
            The logits and the correlations of every level.

        Raises:
            UsageError: The number of prior maps is not ``prior_channels``, or the feature map is
                smaller than one patch of the encoder's attention.
        """
        _check_priors(priors, self.prior_channels)
        batch, shots = supports.shape[:2]
        support = supports.flatten(0, 1)
        levels = cast(list[Level], list(self.levels))
        encoded: list[tuple[Tensor, Tensor]] = []
        for level in levels:
            query, support = level.encode(query), level.encode(support)
            encoded.append((query, support))
        total: Tensor | None = None
        correlations = []
        for level, (query, support) in zip(reversed(levels), reversed(encoded), strict=True):
            size = support.shape[-2:]
            objects = F.interpolate((masks == 1).float(), size, mode="nearest").bool()
            matched, correlation = level.match(
                query, support.unflatten(0, (batch, shots)), objects, priors
            )
            total = level.merge(matched, total)
            correlations.append(correlation)
        return Matching(self.classifier(total), tuple(correlations))


class Level(nn.Module):
    """One scale: encoder blocks, the matching, and the merge with the coarser scales."""

    def __init__(
        self,
        channels: int,
        prior_channels: int,
        *,
        stride: int,
        heads: int,
        reduction: int,
        match_heads: int,
        blocks: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(channels, stride)
        self.blocks = nn.ModuleList(
            EncoderBlock(channels, heads, reduction, expansion, dropout) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(channels, NORM_EPS)
        self.matching = MatchingBlock(channels, match_heads, expansion, dropout)
        self.fusion = Fusion(channels + prior_channels, channels)
        self.refinement = nn.Sequential(
            *_bottleneck(channels, channels * expansion, channels), AffineNorm(channels), nn.ReLU()
        )

    def encode(self, maps: Tensor) -> Tensor:
        """Self-attention inside each image: (N, C, h, w) -> (N, C, h / stride, w / stride)."""
        tokens, size = self.embedding(maps)
        for block in self.blocks:
            tokens = block(tokens, size)
        return as_maps(self.norm(tokens), size)

    def match(
        self, query: Tensor, supports: Tensor, objects: Tensor, priors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Match query (B, C, h, w) with supports (B, K, C, h, w) where objects (B, K, h, w)."""
        height, width = query.shape[-2:]
        columns = supports.transpose(1, 2).flatten(2).transpose(1, 2)  # (B, K h w, C)
        tokens, correlation = self.matching(
            as_tokens(query), columns, objects.flatten(1), (height, width)
        )
        joined = [as_maps(tokens, (height, width))]
        if priors is not None:
            joined.append(resize(priors, (height, width)))
        return self.fusion(torch.cat(joined, dim=1)), correlation.unflatten(1, (height, width))

    def merge(self, matched: Tensor, coarser: Tensor | None) -> Tensor:
        """Refine this level's matches and add the sum of the coarser levels, if any."""
        if coarser is None:
            refined: Tensor = self.refinement(matched)
            return refined
        total = F.interpolate(coarser, matched.shape[-2:], mode="bilinear", align_corners=False)
        refined = self.refinement(matched + total)
        return total + refined


class Fusion(nn.Module):
    """3 x 3 convolution that joins matched features and priors, affine norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = AffineNorm(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        return F.relu(self.norm(self.conv(maps)))


class AffineNorm(nn.BatchNorm2d):
    """Batch norm whose statistics never change: published HDMNet trains so (its ``fix_bn``).

    Only weight and bias learn. Training and evaluation compute the same, and the loss of a batch
    does not depend on how processes share it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise with the stored statistics in every mode."""
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def correlation_distillation(correlations: Sequence[Tensor], target: Tensor) -> Tensor:
    """Each level learns where the next coarser one, and the coarsest where the truth, looks.

    Args:
        correlations: Per level (B, h_l, w_l), coarsest first.
        target: (B, H, W) query labels; 1 is the object.

    Returns:
        Mean over the levels of ``KL(teacher || level)``, both softmaxed over positions. The first
        teacher is the mask: uniform on the object, 0 elsewhere. No gradient reaches a teacher.
    """
    teacher = torch.where(target == 1, 1.0, -1e9)
    losses = []
    for correlation in correlations:
        resized = F.interpolate(
            teacher[:, None], correlation.shape[-2:], mode="bilinear", align_corners=False
        )
        losses.append(
            F.kl_div(
                correlation.flatten(1).log_softmax(dim=1),
                resized.flatten(1).softmax(dim=1),
                reduction="batchmean",
            )
        )
        teacher = correlation.detach()
    return torch.stack(losses).mean()


def _bottleneck(inputs: int, hidden: int, outputs: int) -> tuple[nn.Module, ...]:
    """1 x 1, 3 x 3, 1 x 1 convolutions with affine norms between them (and no activation)."""
    return (
        nn.Conv2d(inputs, hidden, 1),
        AffineNorm(hidden),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        AffineNorm(hidden),
        nn.Conv2d(hidden, outputs, 1),
    )


def _check_priors(priors: Tensor | None, expected: int) -> None:
    given = 0 if priors is None else priors.shape[1]
    if given != expected:
        raise UsageError(f"This HDMNet takes {expected} prior maps per query but got {given}.")
