"""The dense matching part of HDMNet: self-attention on three scales, masked matching on each.

Query and supports pass the same self-attention encoder, which halves the map from level to level.
On every level each query position is then matched with the *object* positions of all supports.
From the coarsest level to the finest the matched features, joined by the prior maps, are refined
and added up; a small head turns the sum into background and foreground logits.

Matching and encoding are kept apart: the encoder never sees the support mask. The features of all
shots are columns of one matching, so a network works with any number of shots.

Maps are (B, C, h, w); tokens are (B, N, C) with N = h w in row order.

Source: Peng et al., "Hierarchical Dense Correlation Distillation for Few-Shot Segmentation",
CVPR 2023, with the prior maps of PI-CLIP (Wang et al., CVPR 2024).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.errors import UsageError

TEMPERATURE = 0.1  # divides the cosines of the matching
NORM_EPS = 1e-6  # of every layer norm


@dataclass(frozen=True, kw_only=True)
class MatchingOptions:
    """What the matching is built with."""

    matching_width: int = 64  # channels of the feature maps, through the whole matching
    heads: Sequence[int] = (2, 4, 8)  # of the encoder's attention, per level, finest first
    reductions: Sequence[int] = (4, 2, 1)  # side of the patches that are one of its keys, per level
    match_heads: int = 2  # of the matching
    blocks: int = 2  # of the encoder, per level
    expansion: int = 4  # hidden width of feed-forward layers and heads, in matching widths
    matching_dropout: float = 0.1  # of attention outputs and feed-forward layers


class HierarchicalMatching(nn.Module):
    """From reduced features, support masks and ``prior_channels`` prior maps to logits.

    Raises:
        UsageError: The width is not a multiple of a number of heads, or the lengths differ.
    """

    def __init__(self, options: MatchingOptions, prior_channels: int) -> None:
        super().__init__()
        channels, heads = options.matching_width, options.heads
        if len(heads) != len(options.reductions) or not heads:
            raise UsageError("heads and reductions of HDMNet need one entry per level each.")
        if any(channels % count for count in (*heads, options.match_heads)):
            raise UsageError(
                f"HDMNet's {channels} channels must be a multiple of each number of heads: "
                f"{tuple(heads)} and {options.match_heads}."
            )
        self.prior_channels = prior_channels
        self.levels = nn.ModuleList(
            Level(options, prior_channels, index) for index in range(len(heads))
        )
        self.classifier = nn.Sequential(*_bottleneck(channels, channels * options.expansion, 2))

    def forward(
        self, query: Tensor, supports: Tensor, masks: Tensor, priors: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Matches queries with their supports.

        Args:
            query: (B, C, h, w) reduced features of the queries.
            supports: (B, K, C, h, w) reduced features of the supports.
            masks: (B, K, H, W), 1 on the object, any size.
            priors: (B, P, h', w') maps that join every level; None when ``prior_channels`` is 0.

        Returns:
            (B, 2, h, w) background and foreground; and per level, coarsest first, (B, h_l, w_l):
            the mean cosine of a query position with the supports' object positions, divided by the
            temperature, 0 without an object.

        Raises:
            UsageError: The number of prior maps is not ``prior_channels``, or the feature map is
                smaller than one patch of the encoder's attention.
        """
        given = 0 if priors is None else priors.shape[1]
        if given != self.prior_channels:
            raise UsageError(
                f"This HDMNet takes {self.prior_channels} prior maps per query but got {given}."
            )
        support, encoded = supports.flatten(0, 1), []
        for level in cast(list[Level], list(self.levels)):
            query, support = level.encode(query), level.encode(support)
            encoded.append((level, query, support))
        total: Tensor | None = None
        correlations = []
        for level, query, support in reversed(encoded):
            size = support.shape[-2:]
            objects = F.interpolate((masks == 1).float(), size, mode="nearest").bool()
            shots = support.unflatten(0, supports.shape[:2])
            matched, correlation = level.match(query, shots, objects, priors)
            total = level.merge(matched, total)
            correlations.append(correlation)
        return self.classifier(total), tuple(correlations)


class Level(nn.Module):
    """One scale: encoder blocks, the matching, and the merge with the coarser scales.

    The level of the index 0 is the finest; each of the others halves the map.
    """

    def __init__(self, options: MatchingOptions, prior_channels: int, index: int) -> None:
        super().__init__()
        channels, dropout = options.matching_width, options.matching_dropout
        hidden, heads = channels * options.expansion, options.heads[index]
        # Only what halves the map looks beyond one position.
        kernel, stride = (1, 1) if index == 0 else (3, 2)
        projection = nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2)
        norm = nn.LayerNorm(channels, NORM_EPS)
        self.embedding = nn.ModuleDict({"projection": projection, "norm": norm})
        self.blocks = nn.ModuleList()
        for _ in range(options.blocks):
            attention = SelfAttention(channels, heads, options.reductions[index], dropout)
            self.blocks.append(EncoderBlock(attention, channels, hidden, dropout))
        self.norm = nn.LayerNorm(channels, NORM_EPS)
        matching = MaskedMatching(channels, options.match_heads, dropout)
        self.matching = MatchingBlock(matching, channels, hidden, dropout)
        self.fusion = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(channels + prior_channels, channels, 3, padding=1, bias=False),
                norm=AffineNorm(channels),
                relu=nn.ReLU(),
            )
        )
        self.refinement = nn.Sequential(
            *_bottleneck(channels, hidden, channels), AffineNorm(channels), nn.ReLU()
        )

    def encode(self, maps: Tensor) -> Tensor:
        """Self-attention inside each image: (N, C, h, w) -> (N, C, h / stride, w / stride)."""
        maps = self.embedding["projection"](maps)
        tokens, size = self.embedding["norm"](as_tokens(maps)), maps.shape[-2:]
        for block in self.blocks:
            tokens = block(tokens, size)
        return as_maps(self.norm(tokens), size)

    def match(
        self, query: Tensor, supports: Tensor, objects: Tensor, priors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Matches query (B, C, h, w) with supports (B, K, C, h, w) where objects (B, K, h, w)."""
        size = query.shape[-2:]
        columns = supports.transpose(1, 2).flatten(2).transpose(1, 2)  # (B, K h w, C)
        tokens, correlation = self.matching(as_tokens(query), columns, objects.flatten(1), size)
        joined = [as_maps(tokens, size)]
        if priors is not None:
            joined.append(resize(priors, size))
        return self.fusion(torch.cat(joined, dim=1)), correlation.unflatten(1, size)

    def merge(self, matched: Tensor, coarser: Tensor | None) -> Tensor:
        """Refines this level's matches and adds the sum of the coarser levels, if any."""
        if coarser is None:
            refined: Tensor = self.refinement(matched)
            return refined
        total = F.interpolate(coarser, matched.shape[-2:], mode="bilinear", align_corners=False)
        refined = self.refinement(matched + total)
        return total + refined


class _Block(nn.Module):
    """The layers of a residual block: pre-norm attention and feed-forward layer."""

    def __init__(self, attention: nn.Module, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, NORM_EPS)
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(channels, NORM_EPS)
        self.feedforward = FeedForward(channels, hidden, dropout)


class EncoderBlock(_Block):
    """Self-attention and feed-forward layer."""

    def forward(self, tokens: Tensor, size: torch.Size) -> Tensor:
        """Tokens of a map of ``size`` -> tokens of the same shape."""
        tokens = tokens + self.attention(self.attention_norm(tokens), size)
        out: Tensor = tokens + self.feedforward(self.feedforward_norm(tokens), size)
        return out


class MatchingBlock(_Block):
    """The masked matching in the place of self-attention; query and supports share the norm."""

    def forward(
        self, query: Tensor, supports: Tensor, objects: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """(B, N, C), (B, S, C), (B, S) -> (B, N, C) and correlations (B, N)."""
        norm = self.attention_norm
        matched, correlation = self.attention(norm(query), norm(supports), objects)
        query = query + matched
        return query + self.feedforward(self.feedforward_norm(query), size), correlation


class _Attention(nn.Module):
    """The four projections that both kinds of attention share."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.dropout = nn.Dropout(dropout)

    def _split(self, tokens: Tensor) -> Tensor:  # (B, N, C) -> (B, heads, N, C / heads)
        split: Tensor = tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return split

    def _join(self, heads: Tensor) -> Tensor:
        joined: Tensor = self.dropout(self.output(heads.transpose(1, 2).flatten(2)))
        return joined


class SelfAttention(_Attention):
    """Scaled dot-product attention whose keys are patches of ``reduction`` x ``reduction``."""

    def __init__(self, channels: int, heads: int, reduction: int, dropout: float) -> None:
        super().__init__(channels, heads, dropout)
        self.reduction: nn.Module | None = None
        self.reduction_norm: nn.Module | None = None
        self.side = reduction
        if reduction > 1:
            self.reduction = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.reduction_norm = nn.LayerNorm(channels, NORM_EPS)

    def forward(self, tokens: Tensor, size: torch.Size) -> Tensor:
        """Attends inside one map of ``size``; raises UsageError if it is under one patch."""
        source = tokens
        if self.reduction is not None and self.reduction_norm is not None:
            if min(size) < self.side:
                raise UsageError(
                    f"HDMNet's attention needs a map of at least {self.side} x {self.side} but got "
                    f"{size[0]} x {size[1]}: use larger images or smaller reductions."
                )
            source = self.reduction_norm(as_tokens(self.reduction(as_maps(tokens, size))))
        projected = self.query(tokens), self.key(source), self.value(source)
        query, key, value = map(self._split, projected)
        return self._join(F.scaled_dot_product_attention(query, key, value))


class MaskedMatching(_Attention):
    """Every object position of the supports spreads its value over the query.

    With unit queries ``q_i`` and keys ``k_j`` per head, temperature ``t`` and object ``M``:

        a_ij = exp(q_i . k_j / t) / sum_i' exp(q_i' . k_j / t)     (softmax over the QUERY)
        matched_i = sum_{j in M} a_ij v_j
        correlation_i = mean over heads and j in M of q_i . k_j / t

    As published, ``matched`` is a sum over the object's positions in all shots, not their mean: it
    grows with the object's area and with the number of shots, so that a support that is given
    twice counts twice. (The correlation, like prototypes and priors, is a mean.)

    The softmax runs over the query positions, so a column depends on no other support position and
    the columns outside the object, which the mask would zero, need not be computed.
    """

    def forward(self, query: Tensor, supports: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Matches the query (B, N, C) with the positions of all shots, one after the other.

        These are (B, S, C) and object where (B, S), bool, is True. It returns matched features
        (B, N, C) and correlations (B, N).
        """
        unit_queries = F.normalize(self._split(self.query(query)), dim=-1)
        unit_keys = F.normalize(self._split(self.key(supports)), dim=-1)
        values = self._split(self.value(supports))
        matched, correlations = [], []
        for rows, keys, columns, inside in zip(
            unit_queries, unit_keys, values, objects, strict=True
        ):
            chosen = keys[:, inside]  # (heads, S in M, d)
            spread = (rows @ chosen.transpose(1, 2) / TEMPERATURE).softmax(dim=1)
            matched.append(spread @ columns[:, inside])
            mean_key = chosen.sum(dim=1) / max(chosen.shape[1], 1)
            correlations.append(torch.einsum("hnd,hd->hn", rows, mean_key).mean(0) / TEMPERATURE)
        return self._join(torch.stack(matched)), torch.stack(correlations)


class FeedForward(nn.Module):
    """1 x 1, depth-wise 3 x 3 (which also encodes position), GELU, 1 x 1."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.position = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Conv2d(hidden, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, size: torch.Size) -> Tensor:
        """Tokens of a map of ``size`` -> tokens of the same shape."""
        hidden = self.position(self.expand(as_maps(tokens, size)))
        return as_tokens(self.dropout(self.contract(self.dropout(F.gelu(hidden)))))


class AffineNorm(nn.BatchNorm2d):
    """Batch norm whose statistics never change: published HDMNet trains so (its ``fix_bn``).

    Only weight and bias learn. Training and evaluation compute the same, and the loss of a batch
    does not depend on how processes share it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises with the stored statistics in every mode."""
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _bottleneck(inputs: int, hidden: int, outputs: int) -> tuple[nn.Module, ...]:
    """1 x 1, 3 x 3, 1 x 1 convolutions with affine norms between them (and no activation)."""
    return (
        nn.Conv2d(inputs, hidden, 1),
        AffineNorm(hidden),
        nn.Conv2d(hidden, hidden, 3, padding=1),
        AffineNorm(hidden),
        nn.Conv2d(hidden, outputs, 1),
    )


def as_tokens(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return maps.flatten(2).transpose(1, 2)


def as_maps(tokens: Tensor, size: torch.Size) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    maps: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return maps


def correlation_distillation(correlations: Sequence[Tensor], target: Tensor) -> Tensor:
    """Each level learns where the next coarser one, and the coarsest where the truth, looks.

    It is the mean over the levels, (B, h_l, w_l), coarsest first, of ``KL(teacher || level)``, both
    softmaxed over positions. The first teacher is the mask, 1 in (B, H, W): uniform on the object,
    0 elsewhere. No gradient reaches a teacher.
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
