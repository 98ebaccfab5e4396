"""The visual-visual prior: how much each query patch looks like the labelled object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.errors import UsageError


def visual_visual_prior(query: Tensor, support: Tensor, support_mask: Tensor) -> Tensor:
    """Best cosine between each query patch and the object patches of each support.

    For one block's tokens F: ``P(i) = max over j in the mask of cos(F_q(i), F_s(j))``. Call it once
    for each of the last two blocks.

    Args:
        query: Patch tokens of the query images, (B, N, D).
        support: Patch tokens of K supports of each of C classes, (C, K, M, D); the supports may
            have another grid than the queries.
        support_mask: The patches that belong to the object, bool (C, K, M).

    Returns:
        Raw cosines in [-1, 1], float32 (float64 for float64 tokens), (B, C, K, N): not scaled, one
        map per shot. A support whose mask is empty gives a map of zeros, and so does a token of
        zeros a cosine of 0.

    Raises:
        UsageError: Shapes that do not fit together, or a mask that is not bool.
    """
    if support.ndim != 4 or support_mask.shape != support.shape[:3]:
        raise UsageError(
            f"Support tokens (C, K, M, D) need a mask (C, K, M), but the shapes are "
            f"{tuple(support.shape)} and {tuple(support_mask.shape)}."
        )
    if query.ndim != 3 or query.shape[-1] != support.shape[-1]:
        raise UsageError(
            f"Query tokens must be (B, N, {support.shape[-1]}) as wide as the support's, not "
            f"{tuple(query.shape)}."
        )
    if support_mask.dtype != torch.bool:
        raise UsageError(
            f"A support mask is bool, not {support_mask.dtype}; compare it with 0 first."
        )
    tiny = torch.finfo(query.dtype).tiny  # F.normalize's own eps is 0 in half precision
    directions = F.normalize(query, dim=-1, eps=tiny)
    classes, shots = support_mask.shape[:2]
    result = torch.promote_types(query.dtype, torch.float32)
    maps = torch.zeros(
        len(query), classes, shots, query.shape[1], dtype=result, device=query.device
    )
    for c in range(classes):
        for k in range(shots):
            # Only the object's patches: fewer columns than the whole grid, and bounded memory.
            own = support[c, k, support_mask[c, k]].to(query)
            patches = F.normalize(own, dim=-1, eps=tiny)
            if len(patches):
                maps[:, c, k] = (directions @ patches.mT).amax(-1)
    return maps


def mean_cosines(queries: Sequence[Tensor], supports: Sequence[Tensor], valid: Tensor) -> Tensor:
    """VVP of one class before it is scaled: the mean over its shots and over several blocks.

    Args:
        queries: Patch tokens of the queries after each block, (B, N, D).
        supports: Patch tokens of K supports after the same blocks, (K, M, D).
        valid: The patches that belong to the object, bool (K, M).

    Returns:
        Cosines in [-1, 1], (B, N).

    Raises:
        UsageError: No block or no support, queries after other blocks, or as
            `visual_visual_prior`.
    """
    if not len(queries) == len(supports) > 0 or not len(valid):
        raise UsageError(
            f"A mean over cosines needs one support, and one block at least, for queries and "
            f"supports alike, not {len(valid)} supports and {len(queries)} and {len(supports)} "
            f"blocks."
        )
    maps = [
        visual_visual_prior(query.float(), support[None], valid[None])[:, 0].mean(dim=1)
        for query, support in zip(queries, supports, strict=True)
    ]
    return torch.stack(maps).mean(dim=0)
