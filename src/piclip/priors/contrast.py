"""The contrast prior: is a query patch nearer to the object or to what surrounds it?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.errors import UsageError

_SUPPORTS_AT_ONCE = 2048  # patches; bounds the matrix of similarities


def contrast_prior(
    query: Tensor,
    support: Tensor,
    coverage: Tensor,
    *,
    sharpness: float,
    counted: Tensor | None = None,
) -> Tensor:
    """Log ratio of two densities at each query patch: that of the object, that of its background.

    Both are kernel density estimates on the unit sphere over the patches s of all supports, which
    are encoded whole and weigh as much as the mask covers them (c) or leaves free (1 - c):

        z(q) = log( sum_s c_s exp(tau q.s) / sum_s c_s )
             - log( sum_s (1 - c_s) exp(tau q.s) / sum_s (1 - c_s) )

    It is an absolute log-odds: 0 where object and background explain a patch equally well, so an
    image without the class stays low. A direction that all patches share (narrow cosines, as in
    CLIP) adds the same to every exponent and cancels; only ``tau`` times the spread of the cosines
    matters. Call it for each of a few blocks and take the mean.

    Args:
        query: Patch tokens of the query images after one block, (B, N, D).
        support: Patch tokens of all supports of all classes after the same block, (M, D); from
            several images, of any grids.
        coverage: Share of each support patch that is object of each of C classes, (C, M) in
            [0, 1]; a bool mask is 0 and 1.
        sharpness: tau; about 3 over the standard deviation of the cosines.
        counted: Weight of each patch for each class, (C, M), 0 for patches of images whose
            labels say nothing about the class; by default all patches count.

    Returns:
        Log-odds z, float32 (float64 for float64 tokens), (B, C, N). Where a class has no object
        or no background patch at all, nothing can be compared and z is 0.

    Raises:
        UsageError: Shapes that do not fit together, or a sharpness that is not above 0.
    """
    if query.ndim != 3 or support.ndim != 2 or query.shape[-1] != support.shape[-1]:
        raise UsageError(
            f"Query tokens (B, N, D) need support tokens (M, D), but the shapes are "
            f"{tuple(query.shape)} and {tuple(support.shape)}."
        )
    counted = torch.ones_like(coverage) if counted is None else counted
    if coverage.shape != counted.shape or coverage.shape[1:] != support.shape[:1]:
        raise UsageError(
            f"{len(support)} support patches need a coverage (C, {len(support)}) and weights like "
            f"it, but the shapes are {tuple(coverage.shape)} and {tuple(counted.shape)}."
        )
    if not sharpness > 0:
        raise UsageError(f"The sharpness must be above 0, not {sharpness}.")
    dtype = torch.promote_types(query.dtype, torch.float32)
    coverage, counted = coverage.to(query.device, dtype), counted.to(query.device, dtype)
    weights = torch.cat([coverage * counted, (1 - coverage) * counted])
    total = weights.sum(1, keepdim=True)
    weights = weights / total.clamp_min(torch.finfo(dtype).tiny)
    directions = F.normalize(query.to(dtype), dim=-1)
    density = torch.zeros(*query.shape[:2], len(weights), dtype=dtype, device=query.device)
    for rows, exponents in _exponents(directions, support, sharpness):
        density += exponents.exp_() @ weights[:, rows].mT
    tiny, comparable = torch.finfo(dtype).tiny, (total > 0).view(2, -1).all(0)
    lost = (density < tiny).any(dim=(0, 1)) & comparable.repeat(2)
    logs = density.clamp_min(tiny).log()
    for k in lost.nonzero()[:, 0].tolist():  # too sharp for a plain sum
        parts = [
            (exponents + weights[k, rows].log()).logsumexp(-1)
            for rows, exponents in _exponents(directions, support, sharpness)
        ]
        logs[..., k] = torch.stack(parts).logsumexp(0)
    inside, outside = logs.mT.chunk(2, dim=1)
    return torch.where(comparable[:, None], inside - outside, torch.zeros_like(inside))


def _exponents(
    directions: Tensor, support: Tensor, sharpness: float
) -> Iterator[tuple[slice, Tensor]]:
    """``tau (q.s - 1)`` of a part of the supports after the other, (B, N, M').

    None is above 0, so that nothing overflows however sharp the kernel is.
    """
    for start in range(0, len(support), _SUPPORTS_AT_ONCE):
        rows = slice(start, start + _SUPPORTS_AT_ONCE)
        patches = F.normalize(support[rows].to(directions), dim=-1)
        yield rows, (directions @ patches.mT).sub_(1).mul_(sharpness)
