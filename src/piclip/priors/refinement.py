"""Prior information refinement (PIR): spread a map along CLIP's own self-attention."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.errors import UsageError
from piclip.priors.maps import min_max

BoxClamp = Literal["cover", "reference"]

_LEVELS = 255  # the published code thresholds 8-bit maps


def transition_matrix(attention: Tensor) -> Tensor:
    """Turns mean attention A into the transition matrix R that refinement applies twice.

    ``D = A / (column sums)``, ``D = D / (row sums)``, ``R = max(D, D D^T)`` elementwise.

    Args:
        attention: Non-negative attention between patches, (B, N, N).

    Returns:
        R, float32 (float64 for float64 attention), (B, N, N).

    Raises:
        UsageError: Another shape.
    """
    if attention.ndim != 3 or attention.shape[1] != attention.shape[2]:
        raise UsageError(f"Attention must be (B, N, N), not {tuple(attention.shape)}.")
    attention = attention.to(torch.promote_types(attention.dtype, torch.float32))
    tiny = torch.finfo(attention.dtype).tiny  # a patch that nobody looks at, in half precision
    step = attention / attention.sum(-2, keepdim=True).clamp_min(tiny)
    step /= step.sum(-1, keepdim=True).clamp_min(tiny)
    return torch.maximum(step, step @ step.mT)


def box_mask(prior: Tensor, *, threshold: float = 0.4, box_clamp: BoxClamp = "cover") -> Tensor:
    """Marks the bounding boxes of the strong regions of each map.

    A map is cut to 8 bits and thresholded, ``v > int(threshold * max v)``; the mask is 1 inside
    the bounding box of any 8-connected component.

    Args:
        prior: Maps in [0, 1], (B, C, h, w).
        threshold: Fraction of the map's maximum, in [0, 1).
        box_clamp: "cover" includes the whole component. "reference" repeats a defect of the
            published code, which never includes the last row and column of the grid, so that a
            mask can come out empty; only for comparisons with it.

    Returns:
        Bool (B, C, h, w). A map of zeros has an empty mask.

    Raises:
        UsageError: Another shape, values or a threshold out of range, or an unknown ``box_clamp``.
    """
    if prior.ndim != 4 or not ((prior >= 0) & (prior <= 1)).all() or not 0 <= threshold < 1:
        raise UsageError(
            f"Boxes need maps (B, C, h, w) of values from 0 to 1 and a threshold of at least 0 and "
            f"below 1, but the shape is {tuple(prior.shape)} and the threshold {threshold}; scale "
            f"the maps with min_max."
        )
    if box_clamp not in ("cover", "reference"):
        raise UsageError(f"box_clamp must be 'cover' or 'reference', not {box_clamp!r}.")
    levels = (prior.float() * _LEVELS).to(torch.uint8).flatten(0, -3)
    limits = torch.tensor([int(threshold * level) for level in range(_LEVELS + 1)])
    limit = limits.to(levels.device)[levels.amax((-2, -1), keepdim=True).long()]
    boxes = _boxes(_components(levels > limit), inset=0 if box_clamp == "cover" else 1)
    return boxes.view(prior.shape)


def _components(strong: Tensor) -> Tensor:
    """A number above 0 for each 8-connected component of bool maps, (M, h, w); 0 elsewhere."""
    height, width = strong.shape[-2:]
    places = torch.arange(1, height * width + 1, device=strong.device).view(height, width)
    numbers = strong * places.float()  # exact below 2 ** 24 patches; max_pool2d wants floats
    while True:  # every patch takes the greatest number among its neighbours
        spread_out = F.max_pool2d(numbers[:, None], 3, stride=1, padding=1)[:, 0] * strong
        if torch.equal(spread_out, numbers):
            return numbers.long()
        numbers = spread_out


def _boxes(components: Tensor, *, inset: int) -> Tensor:
    """Where any component's bounding box is, without the last ``inset`` rows and columns."""
    count, height, width = components.shape
    own = components.flatten(1)
    corners = []
    for line, size in ((torch.arange(height)[:, None], height), (torch.arange(width), width)):
        place = line.expand(height, width).to(own.device).flatten().expand(count, -1)
        first = torch.full((count, height * width + 1), size, device=own.device)
        last = torch.full_like(first, -1)
        first.scatter_reduce_(1, own, place, "amin")
        last.scatter_reduce_(1, own, place, "amax")
        corners.append((first, (last + 1).clamp(max=size - inset)))
    (top, bottom), (left, right) = corners
    found = top < height
    found[:, 0] = False  # the number of no component
    which, _ = found.nonzero(as_tuple=True)
    # Sums over rows and columns turn a box's four corners into its inside.
    edges = torch.zeros(count, height + 1, width + 1, dtype=torch.long, device=own.device)
    for rows, columns, sign in (
        (top, left, 1),
        (bottom, left, -1),
        (top, right, -1),
        (bottom, right, 1),
    ):
        at = (which, rows[found], columns[found])
        edges.index_put_(at, edges.new_tensor(sign), accumulate=True)
    return edges.cumsum(1).cumsum(2)[:, :-1, :-1] > 0


def refine_prior(
    prior: Tensor,
    attention: Tensor,
    *,
    threshold: float = 0.4,
    boxes: bool = True,
    box_clamp: BoxClamp = "cover",
) -> Tensor:
    """Refines prior maps: ``R (R (B . P))``, scaled to [0, 1].

    R is `transition_matrix` and B is `box_mask`. The square of R is never formed.

    Args:
        prior: Maps in [0, 1], (B, C, h, w).
        attention: Mean attention between the h * w patches of the same images, (B, N, N).
        threshold: See `box_mask`.
        boxes: False refines the whole map instead of what its boxes hold.
        box_clamp: See `box_mask`.

    Returns:
        Refined maps in [0, 1], (B, C, h, w); zeros where the box mask is empty.

    Raises:
        UsageError: Attention of another number of patches or images; and as `box_mask`.
    """
    size = prior.shape[-2:].numel()
    if prior.ndim != 4 or attention.shape != (len(prior), size, size):
        raise UsageError(
            f"Maps (B, C, h, w) need attention of shape (B, h * w, h * w), but the shapes are "
            f"{tuple(prior.shape)} and {tuple(attention.shape)}."
        )
    sources = prior
    if boxes:
        sources = prior * box_mask(prior, threshold=threshold, box_clamp=box_clamp)
    return spread(sources, transition_matrix(attention))


def spread(maps: Tensor, transition: Tensor) -> Tensor:
    """Applies a transition matrix twice: ``R (R P)``, scaled to [0, 1].

    What `refine_prior` does last; for whoever refines several stacks of maps of the same images.

    Args:
        maps: (B, C, h, w).
        transition: R of the same images, see `transition_matrix`, (B, N, N) with N = h * w.

    Returns:
        Maps in [0, 1], (B, C, h, w).

    Raises:
        UsageError: Shapes that do not fit together.
    """
    size = maps.shape[-2:].numel()
    if maps.ndim != 4 or transition.shape != (len(maps), size, size):
        raise UsageError(
            f"Maps (B, C, h, w) need a transition matrix (B, h * w, h * w), but the shapes are "
            f"{tuple(maps.shape)} and {tuple(transition.shape)}."
        )
    columns = maps.flatten(2).mT.to(transition.dtype)
    refined = transition @ (transition @ columns)
    return min_max(refined.mT.reshape(maps.shape))
