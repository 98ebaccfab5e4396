"""The token layers of HDMNet: patch embedding, self-attention, masked matching, feed-forward.

Tokens are (B, N, C) with N = h w in row order, maps (B, C, h, w).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.errors import UsageError

TEMPERATURE = 0.1
"""Divides the cosines of the matching."""

NORM_EPS = 1e-6
"""Of every layer norm."""


class PatchEmbedding(nn.Module):
    """A convolution (3 x 3 where it halves the map, else 1 x 1) and a layer norm per position."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        kernel = 1 if stride == 1 else 3
        self.projection = nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, NORM_EPS)

    def forward(self, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, h, w) -> tokens and the size of their map."""
        maps = self.projection(maps)
        height, width = maps.shape[-2:]
        return self.norm(as_tokens(maps)), (height, width)


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward layer, both residual."""

    def __init__(
        self, channels: int, heads: int, reduction: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, NORM_EPS)
        self.attention = SelfAttention(channels, heads, reduction, dropout)
        self.feedforward_norm = nn.LayerNorm(channels, NORM_EPS)
        self.feedforward = FeedForward(channels, channels * expansion, dropout)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens of a map of ``size`` -> tokens of the same shape."""
        tokens = tokens + self.attention(self.attention_norm(tokens), size)
        out: Tensor = tokens + self.feedforward(self.feedforward_norm(tokens), size)
        return out


class MatchingBlock(nn.Module):
    """The masked matching in the place of self-attention; query and supports share the norm."""

    def __init__(self, channels: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, NORM_EPS)
        self.attention = MaskedMatching(channels, heads, dropout)
        self.feedforward_norm = nn.LayerNorm(channels, NORM_EPS)
        self.feedforward = FeedForward(channels, channels * expansion, dropout)

    def forward(
        self, query: Tensor, supports: Tensor, objects: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, N, C), (B, S, C), (B, S) -> (B, N, C) and correlations (B, N)."""
        matched, correlation = self.attention(
            self.attention_norm(query), self.attention_norm(supports), objects
        )
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

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend inside one map of ``size``; raises UsageError if it is under one patch."""
        source = tokens
        if self.reduction is not None and self.reduction_norm is not None:
            if min(size) < self.side:
                raise UsageError(
                    f"HDMNet's attention needs a map of at least {self.side} x {self.side} but got "
                    f"{size[0]} x {size[1]}: use larger images or smaller reductions."
                )
            source = self.reduction_norm(as_tokens(self.reduction(as_maps(tokens, size))))
        query, key, value = self.query(tokens), self.key(source), self.value(source)
        return self._join(
            F.scaled_dot_product_attention(self._split(query), self._split(key), self._split(value))
        )


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
        """Match tokens.

        Args:
            query: (B, N, C).
            supports: (B, S, C), the positions of all shots one after the other.
            objects: (B, S) bool, True on the object.

        Returns:
            Matched features (B, N, C) and correlations (B, N).
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

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens of a map of ``size`` -> tokens of the same shape."""
        hidden = self.position(self.expand(as_maps(tokens, size)))
        return as_tokens(self.dropout(self.contract(self.dropout(F.gelu(hidden)))))


def as_tokens(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return maps.flatten(2).transpose(1, 2)


def as_maps(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    maps: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return maps
