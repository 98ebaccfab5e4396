"""The visual-text prior (VTP): which patches speak for a class name, by an analytic GradCAM.

GradCAM needs ``w = sum_i dS/dy_i`` over the patches i, where y is the output of the last block's
first layer norm and S the probability of the class: the gradient with respect to one vector that
is added to every patch of y. Given a recorded forward pass it is linear algebra, so no autograd
runs, and all that is summed over patches is summed before it is multiplied by a weight matrix:

    dS/dv        = s p_f (1 - p_f) (t_f - sum_j r_j t_j),   r = softmax over the other texts
    g_i          = J_post(z_i)^T P^T J_norm^T dS/dv / N                   (g_cls = 0)
    G_i          = g_i + J_ln2(mid_i)^T W_1^T (act'(h_i) * W_2^T g_i)
    G^h          = G W_o, per head;   ds_ij = A_ij (G^h_i . v_j - G^h_i . o_i)
    sum_j dv_j   = sum_i (1 - A_i,cls) G^h_i
    sum_j dk_j   = -sum_i ds_i,cls q_i / sqrt(d)        (the rows of ds sum to zero)
    sum_i dq_i   = sum_j (sum_i ds_ij) k_j / sqrt(d)
    w            = W_q^T sum dq + W_k^T sum dk + W_v^T sum dv

where the sums over j for dk and dv leave out the cls token, which the offset does not move.

The direction is computed for seeds of unit size and apart from its positive length. So neither a
saturated softmax (whose gradient underflows, while its direction is well defined) nor float16
loses it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.vit import LastBlock, attention_tiles
from piclip.errors import UsageError
from piclip.priors.maps import min_max

_CLASSES_AT_ONCE = 8  # bounds the memory; what the classes share is repeated for every eight
_ROWS_AT_ONCE = 256  # patches; keeps the MLP's wide activations small


@torch.no_grad()
def visual_text_prior(
    block: LastBlock,
    foreground: Tensor,
    background: Tensor,
    *,
    logit_scale: float,
    grid: tuple[int, int],
    contrast: Tensor | None = None,
) -> Tensor:
    """GradCAM of each class at the last block: ``min_max(ReLU(sum_d w_d y_d))``.

    Args:
        block: Record of the last block's forward pass, `piclip.clip.encoder.Encoding.last_block`.
        foreground: L2-normalised text vectors of the C classes, (C, E).
        background: Those of their background prompts, (C, E).
        logit_scale: Factor s on the cosines before the softmax.
        grid: (h, w).
        contrast: Further texts (X, E) that join the two of each class in its softmax. By default
            a class meets its own two prompts only, as in the paper.

    Returns:
        Maps in [0, 1], float32 (float64 for a float64 record), (B, C, h, w).

    Raises:
        UsageError: Shapes that do not fit together, or a factor that is not finite.
    """
    weights, _ = _directions(block, foreground, background, logit_scale, contrast)
    patches = block.normed[:, 1:].to(weights.dtype)
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != patches.shape[1]:
        raise UsageError(f"The grid {grid} does not have {patches.shape[1]} patches.")
    # Of unit size, so that the eps of min_max is small beside any map that is not zero.
    weights = F.normalize(weights, dim=-1, eps=torch.finfo(weights.dtype).tiny)
    maps = torch.relu(weights @ patches.mT)
    return min_max(maps.view(*maps.shape[:2], *grid))


@torch.no_grad()
def offset_gradient(
    block: LastBlock,
    foreground: Tensor,
    background: Tensor,
    *,
    logit_scale: float,
    contrast: Tensor | None = None,
) -> Tensor:
    """Gradient of each class's probability with respect to one offset of all patches of y.

    Args:
        block: See `visual_text_prior`, as for the other arguments.
        foreground: (C, E).
        background: (C, E).
        logit_scale: Factor on the cosines.
        contrast: (X, E) or None.

    Returns:
        ``sum_i dS_c / dy_i``, (B, C, D), float32 or float64.
    """
    weights, length = _directions(block, foreground, background, logit_scale, contrast)
    return weights * length[..., None]


def _directions(
    block: LastBlock,
    foreground: Tensor,
    background: Tensor,
    logit_scale: float,
    contrast: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients (B, C, D) up to a positive factor, and that factor (B, C)."""
    dtype = torch.promote_types(block.output.dtype, torch.float32)
    device = block.output.device
    embed_dim = block.head.projection.shape[0]
    if contrast is None:
        contrast = foreground.new_empty(0, embed_dim)
    texts = [text.to(device=device, dtype=dtype) for text in (foreground, background, contrast)]
    fitting = all(text.ndim == 2 and text.shape[1] == embed_dim for text in texts)
    if not fitting or not len(texts[0]) == len(texts[1]) > 0:
        raise UsageError(
            f"Texts must be (classes, {embed_dim}) of one class at least, as many for the "
            f"foreground as for the background, but the shapes are "
            f"{[tuple(text.shape) for text in texts]}."
        )
    if not math.isfinite(logit_scale):
        raise UsageError(f"The factor on the cosines must be a finite number, not {logit_scale}.")
    directions, lengths = [], []
    for image in range(len(block.output)):
        normed, inverse_std = _standardise(block.output[image, 1:].to(dtype), block.head.eps)
        seeds, length = _text_seeds(block, normed, texts, logit_scale)
        directions.append(
            torch.cat(
                [
                    _backward(
                        block, image, normed, inverse_std, seeds[first : first + _CLASSES_AT_ONCE]
                    )
                    for first in range(0, len(seeds), _CLASSES_AT_ONCE)
                ]
            )
        )
        lengths.append(length)
    return torch.stack(directions), torch.stack(lengths)


def _text_seeds(
    block: LastBlock, normed: Tensor, texts: list[Tensor], logit_scale: float
) -> tuple[Tensor, Tensor]:
    """The gradient of S before the last layer norm's Jacobian, which all patches share.

    From the standardised patch tokens (N, D) of one image and the texts: foreground (C, E),
    background (C, E), contrast (X, E). Seeds (C, D) have the mean zero and the largest entry one;
    the factors (C,) are what was left out.
    """
    foreground, background, contrast = texts
    head = block.head
    projection = head.projection.to(normed.dtype)
    pooled = normed.mean(0) * head.ln_weight + head.ln_bias.to(normed.dtype)
    feature = projection @ pooled
    size = feature.norm()
    feature = feature / size

    cosine = foreground @ feature
    own = (background @ feature)[:, None]
    others = torch.cat([own, (contrast @ feature).expand(len(own), -1)], dim=1) * logit_scale
    shares = others.softmax(-1)
    rival = shares[:, :1] * background + shares[:, 1:] @ contrast
    margin = cosine * logit_scale - others.logsumexp(-1)
    length = logit_scale * torch.sigmoid(margin) * torch.sigmoid(-margin)

    direction = foreground - rival
    direction = (direction - (direction @ feature)[:, None] * feature) / size
    seeds = (direction @ projection) * head.ln_weight
    seeds = seeds - seeds.mean(-1, keepdim=True)
    peak = seeds.abs().amax(-1).clamp_min(torch.finfo(seeds.dtype).tiny)
    return seeds / peak[:, None], length * peak / len(normed)


def _backward(
    block: LastBlock, image: int, normed: Tensor, inverse_std: Tensor, seeds: Tensor
) -> Tensor:
    """Takes seeds (C, D) of one image back to the offset of y, (C, D)."""
    weights = block.weights
    query, key, value = _through_attention(
        block, image, _through_mlp(block, image, normed, inverse_std, seeds)
    )
    return (
        query @ weights.query_weight.to(query.dtype)
        + key @ weights.key_weight.to(key.dtype)
        + value @ weights.value_weight.to(value.dtype)
    )


def _through_mlp(
    block: LastBlock, image: int, normed: Tensor, inverse_std: Tensor, seeds: Tensor
) -> Tensor:
    """Gradient at the residual stream between attention and MLP.

    With g_i = (a - b_i zhat_i) / sigma_i the product W_2^T g_i splits into W_2^T a, one vector per
    class, and W_2^T zhat_i, which all classes share. ``normed`` is zhat (N, D), ``inverse_std``
    1 / sigma (N, 1), ``seeds`` a (C, D), the result G (C, N, D).
    """
    weights, half = block.weights, block.output.dtype
    mid, inverse_mid_std = _standardise(block.mid[image, 1:].to(seeds.dtype), weights.eps)
    hidden = block.hidden[image, 1:]
    share = (normed @ seeds.mT) / seeds.shape[1]  # b, (N, C)
    seeds_up = seeds.to(half) @ weights.fc2_weight
    result = torch.empty(len(seeds), *normed.shape, dtype=seeds.dtype, device=seeds.device)
    for start in range(0, len(normed), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        slope = weights.activation.slope(hidden[rows])
        normed_up = normed[rows].to(half) @ weights.fc2_weight
        for c, seed in enumerate(seeds):
            amount = share[rows, c, None]
            wide = torch.addcmul(seeds_up[c], normed_up, amount.to(half), value=-1).mul_(slope)
            down = (wide @ weights.fc1_weight).to(seeds.dtype) * weights.ln2_weight
            down -= down.mean(-1, keepdim=True)
            along = (down * mid[rows]).mean(-1, keepdim=True)
            down.addcmul_(mid[rows], along, value=-1)
            direct = torch.addcmul(seed, normed[rows], amount, value=-1)
            direct.addcmul_(inverse_mid_std[rows], down)
            torch.mul(inverse_std[rows], direct, out=result[c, rows])
    return result


def _through_attention(
    block: LastBlock, image: int, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From G at the patches (C, N, D) the sums of dq, dk and dv over the patches, (C, D) each."""
    classes, dtype = len(gradient), gradient.dtype
    query = block.query[image, :, 1:]
    key, value = block.key[image], block.value[image]
    heads, tokens, width = key.shape
    attended = block.attended[image, 1:].view(-1, heads, width)

    half = gradient.to(query.dtype) @ block.weights.out_weight
    per_head = half.view(classes, -1, heads, width).permute(2, 1, 0, 3)  # (H, N, C, d)
    along = torch.einsum("hncd,nhd->hnc", per_head, attended)  # G . o
    stacked = torch.cat([per_head, along[..., None]], dim=-1).flatten(2)
    towards_cls = torch.einsum("hncd,hd->hnc", per_head, value[:, 0]) - along

    received = torch.zeros(heads, tokens, stacked.shape[-1], dtype=dtype, device=key.device)
    key_sum = torch.zeros(heads, classes, width, dtype=dtype, device=key.device)
    for head, rows, attention in attention_tiles(query, key):
        received[head].add_(attention.mT @ stacked[head, rows])
        pull = attention[..., :1] * towards_cls[head, rows]
        key_sum[head].sub_(pull.mT @ query[head, rows])
    received = received.view(heads, tokens, classes, width + 1)  # A^T [G, G . o]
    flow = torch.einsum("htcd,htd->htc", received[..., :width], value.to(dtype))
    query_sum = (flow - received[..., width]).mT @ key.to(dtype)
    value_sum = per_head.sum(1, dtype=dtype) - received[:, 0, :, :width]
    scale = width**-0.5
    return (
        _join_heads(query_sum * scale),
        _join_heads(key_sum * scale),
        _join_heads(value_sum),
    )


def _join_heads(per_head: Tensor) -> Tensor:
    """(H, C, d) to (C, H * d)."""
    return per_head.transpose(0, 1).flatten(1)


def _standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A layer norm without its affine part, and 1 / sigma (..., 1)."""
    centred = x - x.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * inverse_std, inverse_std
