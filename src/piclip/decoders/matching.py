"""How a query is compared with masked supports: prototypes and the prior of best matches."""

from __future__ import annotations

import torch
from torch import Tensor

from piclip.decoders.backbones import resize
from piclip.priors.maps import min_max


def object_masks(masks: Tensor, size: torch.Size) -> Tensor:
    """Returns masks (B, K, H, W) as soft masks of the object, (B * K, 1, h, w), in [0, 1].

    Only the value 1 is the object: 255 (ignore) counts as background.
    """
    return resize((masks == 1).flatten(0, 1).unsqueeze(1).float(), size)


def masked_average(features: Tensor, masks: Tensor) -> Tensor:
    """Returns prototypes: ``sum(F * M) / (sum(M) + 0.0005)``; zero for an empty mask.

    Args:
        features: Maps, (N, C, h, w).
        masks: Masks in [0, 1], (N, 1, h, w).

    Returns:
        Prototypes, (N, C).
    """
    return (features * masks).sum((2, 3)) / (masks.sum((2, 3)) + 0.0005)


def max_cosine_prior(query: Tensor, support: Tensor) -> Tensor:
    """Returns the prior of PFENet: the best match of each query position in the support.

    ``P(i) = max_j cos(Q(i), S(j))``, then min-max to [0, 1]. Positions of the support outside its
    mask are expected to be zero; their similarity is zero.

    Args:
        query: Maps, (B, C, h, w).
        support: Maps, (B, C, h', w'), already masked.

    Returns:
        Prior in [0, 1], (B, 1, h, w).
    """
    q, s = query.flatten(2), support.flatten(2)  # (B, C, N), (B, C, M)
    norms = s.norm(dim=1)[:, :, None] * q.norm(dim=1)[:, None, :]
    similarity = (s.transpose(1, 2) @ q) / (norms + 1e-7)  # (B, M, N)
    best = similarity.amax(1).unflatten(1, query.shape[-2:])
    return min_max(best).unsqueeze(1)
