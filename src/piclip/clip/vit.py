"""One pre-norm ViT block as plain tensors: its forward pass, and a record of the last one.

The encoder runs these functions, the visual-text prior differentiates their record; neither needs
to know the other. A block maps tokens ``x`` (B, T, D), T = 1 + N with the cls token first, to

    mid = x + W_o attend(W_q y, W_k y, W_v y) + b_o,   y = ln1(x)
    out = mid + W_2 act(W_1 ln2(mid) + b_1) + b_2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CPU_TILE_BYTES = 2 << 20  # one head's scores: they stay in a core's cache
_TILE_BYTES = 256 << 20  # all heads' scores on other devices: few launches, bounded memory


@dataclass(frozen=True)
class Activation:
    """An elementwise activation of the MLP."""

    function: Callable[[Tensor], Tensor]  # may overwrite its argument
    slope: Callable[[Tensor], Tensor]  # the derivative; leaves its argument alone


_QUICK = 1.702


def _quick_gelu(h: Tensor) -> Tensor:
    """``h * sigmoid(1.702 h)`` as a SiLU in place: no second wide buffer, half the time."""
    F.silu(h.mul_(_QUICK), inplace=True)
    return h.mul_(1 / _QUICK)


def _quick_gelu_slope(h: Tensor) -> Tensor:
    slope: Tensor = torch.ops.aten.silu_backward(h.new_ones(()).expand_as(h), h * _QUICK)
    return slope


def _gelu_slope(h: Tensor) -> Tensor:
    slope: Tensor = torch.ops.aten.gelu_backward(h.new_ones(()).expand_as(h), h)
    return slope


ACTIVATIONS = {
    "quick_gelu": Activation(_quick_gelu, _quick_gelu_slope),
    "gelu": Activation(F.gelu, _gelu_slope),
}
"""The activations of the published CLIP models by their name in transformers."""


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """The weights of one block; matrices are (out, in) as in ``torch.nn.Linear``."""

    ln1_weight: Tensor
    ln1_bias: Tensor
    query_weight: Tensor
    query_bias: Tensor
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    ln2_weight: Tensor
    ln2_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor
    heads: int
    eps: float
    activation: Activation


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Final layer norm (D,) and projection (E, D) into the space shared with the texts."""

    ln_weight: Tensor
    ln_bias: Tensor
    projection: Tensor
    eps: float


@dataclass(frozen=True, eq=False)
class LastBlock:
    """One recorded forward pass of the last block: all that its analytic gradient needs.

    Attention maps are left out: they are recomputed tile by tile from queries and keys.
    """

    weights: BlockWeights
    head: HeadWeights
    normed: Tensor  # output y of the first layer norm, (B, T, D)
    query: Tensor  # (B, H, T, D/H)
    key: Tensor  # the same shape
    value: Tensor  # the same shape
    attended: Tensor  # attention output before the output projection, (B, T, D)
    mid: Tensor  # residual stream between attention and MLP, (B, T, D)
    hidden: Tensor  # pre-activation of the MLP, (B, T, F)
    output: Tensor  # residual stream after the block, (B, T, D)


def forward_block(x: Tensor, weights: BlockWeights, attention_sum: Tensor | None = None) -> Tensor:
    """Runs one block; gives the tokens (B, T, D) after it.

    Args:
        x: Tokens, (B, T, D).
        weights: The block's weights.
        attention_sum: None for scaled-dot-product attention, or a float32 (B, T, T) buffer to
            which the sum over heads of the attention is added.
    """
    mid = _attention_half(x, weights, attention_sum)[-1]
    return mid + _mlp_out(_mlp_in(mid, weights), weights)


def record_block(
    x: Tensor, weights: BlockWeights, head: HeadWeights, attention_sum: Tensor
) -> LastBlock:
    """Runs the last block as `forward_block` does and keeps what its gradient needs."""
    half = _attention_half(x, weights, attention_sum)
    mid = half[-1]
    hidden = _mlp_in(mid, weights)
    output = mid + _mlp_out(hidden.clone(), weights)
    return LastBlock(weights, head, *half, hidden, output)


def attention_tiles(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields softmax(q k^T / sqrt(d)) of one image piece by piece, in bounded memory.

    On a CPU a tile is one head and as many queries as stay in cache; elsewhere all heads go
    together.

    Args:
        query: Queries, (H, Q, d).
        key: Keys, (H, T, d).

    Yields:
        Heads, query rows and the probabilities (heads, rows, T), a buffer that the next tile
        overwrites.
    """
    heads, queries, width = query.shape
    group, budget = (heads, _TILE_BYTES) if _heads_together(query) else (1, _CPU_TILE_BYTES)
    row_bytes = group * key.shape[1] * query.element_size()
    pieces = -(-queries * row_bytes // budget)
    rows = -(-queries // pieces)
    scaled = query * width**-0.5
    scores = query.new_empty(2, group, rows, key.shape[1])
    for head in range(0, heads, group):
        head_slice = slice(head, head + group)
        for start in range(0, queries, rows):
            row_slice = slice(start, min(start + rows, queries))
            raw, probabilities = scores[:, :, : row_slice.stop - start]
            torch.matmul(scaled[head_slice, row_slice], key[head_slice].mT, out=raw)
            torch.softmax(raw, -1, out=probabilities)
            yield head_slice, row_slice, probabilities


def _heads_together(query: Tensor) -> bool:
    return query.device.type != "cpu"


def _attention_half(
    x: Tensor, weights: BlockWeights, attention_sum: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normed input, queries, keys, values, attention output and ``mid``, as in `LastBlock`."""
    normed = F.layer_norm(x, x.shape[-1:], weights.ln1_weight, weights.ln1_bias, weights.eps)

    def heads(weight: Tensor, bias: Tensor) -> Tensor:
        projected = F.linear(normed, weight, bias)
        return projected.view(*normed.shape[:2], weights.heads, -1).transpose(1, 2)

    query = heads(weights.query_weight, weights.query_bias)
    key = heads(weights.key_weight, weights.key_bias)
    value = heads(weights.value_weight, weights.value_bias)
    attended = _attend(query, key, value, attention_sum)
    mid = x + F.linear(attended, weights.out_weight, weights.out_bias)
    return normed, query, key, value, attended, mid


def _attend(query: Tensor, key: Tensor, value: Tensor, attention_sum: Tensor | None) -> Tensor:
    """Attention output (B, T, D); adds the maps, summed over heads, to ``attention_sum``."""
    if attention_sum is None:
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    batch, heads, tokens, width = query.shape
    attended = query.new_empty(batch, tokens, heads, width)
    for image in range(batch):
        for head, rows, attention in attention_tiles(query[image], key[image]):
            total = attention[0] if len(attention) == 1 else attention.sum(0, dtype=torch.float32)
            attention_sum[image, rows].add_(total)
            out = attended[image, rows, head].transpose(0, 1)
            torch.matmul(attention, value[image, head], out=out)
    return attended.flatten(2)


def _mlp_in(mid: Tensor, weights: BlockWeights) -> Tensor:
    """The pre-activation (B, T, F)."""
    normed = F.layer_norm(mid, mid.shape[-1:], weights.ln2_weight, weights.ln2_bias, weights.eps)
    return F.linear(normed, weights.fc1_weight, weights.fc1_bias)


def _mlp_out(hidden: Tensor, weights: BlockWeights) -> Tensor:
    """The MLP's output (B, T, D); may overwrite ``hidden``."""
    return F.linear(weights.activation.function(hidden), weights.fc2_weight, weights.fc2_bias)
