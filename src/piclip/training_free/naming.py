"""What a CLIP says of a class's name: where it is, and whether to believe it.

A CLIP may not know a name, and a user may show another class than the name says. So the name's map
counts as far as the supports and the query bear it out:

    trust = (2 AUC - 1)^2 sigmoid(n_s - text_level) sigmoid(n_q - text_level)

AUC is that of the map between object and background patches of the supports, n the CLIP's own
log-odds that the name is true of the supports (mean) and of the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.encoder import Encoding
from piclip.priors import refine_prior, visual_text_prior

_CLAMP = 1e-2  # of a map before its logit: +-4.6


class Said(NamedTuple):
    """What a CLIP says of C names in B images."""

    plain: Tensor  # VTP, (B, C, h, w) in [0, 1]
    refined: Tensor  # the same after PIR
    log_odds: Tensor  # that the name is true of the image, (B, C)


def text_map(encoding: Encoding, texts: Tensor, *, contrast: Tensor | None = None) -> Tensor:
    """VTP of classes in B images, as published; in [0, 1] on the CLIP's own grid, (B, C, h, w).

    ``texts`` are of each class and of its absence, (C, 2, E); every class meets ``contrast`` (X, E)
    too.
    """
    return visual_text_prior(
        encoding.last_block,
        texts[:, 0],
        texts[:, 1],
        logit_scale=encoding.logit_scale,
        grid=encoding.grid,
        contrast=contrast,
    )


def text_maps(
    encoding: Encoding, texts: Tensor, *, contrast: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """VTP of classes and what PIR makes of it, (B, C, h, w) each; as `text_map`."""
    plain = text_map(encoding, texts, contrast=contrast)
    return plain, refine_prior(plain, encoding.attention)


def named_log_odds(encoding: Encoding, texts: Tensor) -> Tensor:
    """The CLIP's own log-odds that names, as in `text_map`, are true of B images, (B, C).

    An image's class token speaks for it, after the final norm and the projection.
    """
    block = encoding.last_block
    head, token = block.head, block.output[:, 0]
    normed = F.layer_norm(token, token.shape[-1:], head.ln_weight, head.ln_bias, head.eps)
    image = F.normalize((normed @ head.projection.mT).float(), dim=-1)
    log_odds: Tensor = encoding.logit_scale * image @ (texts[:, 0] - texts[:, 1]).mT
    return log_odds


def name_trust(agreed: Tensor, shown: Tensor, asked: Tensor, level: float) -> Tensor:
    """How far names are to be believed, (B, C) in [0, 1].

    By their `agreement` (C,), n_s (C,) as they were shown, n_q (B, C) as they are asked for, and
    text_level.
    """
    return agreed * torch.sigmoid(shown - level) * torch.sigmoid(asked - level)


def map_log_odds(refined: Tensor) -> Tensor:
    """A map in [0, 1] as log-odds, so that it adds up with others; within +-4.6."""
    return torch.logit(refined.clamp(_CLAMP, 1 - _CLAMP))


def agreement(maps: Sequence[Tensor], coverages: Sequence[Tensor]) -> Tensor:
    """``(2 AUC - 1)^2`` of maps with masks, 0 where they are no better than chance, ().

    Of each support there is a map (N,) and the share of each of its patches that is object, (N,).
    """
    area = area_under_curve(torch.cat(list(maps)), torch.cat(list(coverages)))
    squared: Tensor = (2 * area - 1).clamp_min(0).square()
    return squared


def area_under_curve(values: Tensor, coverage: Tensor) -> Tensor:
    """Probability that an object patch has a greater value than a background patch.

    Args:
        values: (N,).
        coverage: Share of each patch that is object, (N,) in [0, 1].

    Returns:
        Of a pair drawn by coverage, ties by halves, () in [0, 1]; 0.5 where all is object or all
        background.
    """
    levels, place = values.unique(return_inverse=True)
    inside = torch.zeros_like(levels).index_add_(0, place, coverage.to(levels.dtype))
    outside = torch.zeros_like(levels).index_add_(0, place, 1 - coverage.to(levels.dtype))
    pairs = inside.sum() * outside.sum()
    below = outside.cumsum(0) - outside / 2
    area: Tensor = (inside * below).sum() / pairs
    return torch.where(pairs > 0, area, 0.5)
