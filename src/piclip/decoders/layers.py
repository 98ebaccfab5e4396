"""The functions and the few kinds of layers that the decoders repeat."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.io.images import IGNORE


def pointwise(inputs: int, width: int) -> nn.Sequential:
    """Returns a 1x1 convolution without bias and a ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.ReLU())


def two_convolutions(width: int) -> nn.Sequential:
    """Returns two 3x3 convolutions without bias, each with a ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
    )


def mask_classifier(width: int) -> nn.Sequential:
    """Returns the layers from features to scores of background and object."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, 2, 1),
    )


def object_masks(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns masks (B, K, H, W) as soft masks of the object, (B * K, 1, h, w), in [0, 1].

    Only the value 1 is the object: 255 (ignore) counts as background.
    """
    return resize((masks == 1).flatten(0, 1).unsqueeze(1).float(), size)


def masked_average(features: Tensor, masks: Tensor) -> Tensor:
    """Returns prototypes (N, C): ``sum(F * M) / (sum(M) + 0.0005)``; zero for an empty mask.

    The features are (N, C, h, w), the masks (N, 1, h, w) in [0, 1].
    """
    return (features * masks).sum((2, 3)) / (masks.sum((2, 3)) + 0.0005)


def best_cosine(query: Tensor, support: Tensor) -> Tensor:
    """Returns how well each query position matches the support: ``max_j cos(Q(i), S(j))``.

    The query's maps (B, C, h, w) and the support's (B, C, h', w'), which are zero outside the mask
    (the cosine with zero is zero), give cosines (B, 1, h, w).
    """
    q, s = query.flatten(2), support.flatten(2)  # (B, C, N), (B, C, M)
    norms = s.norm(dim=1)[:, :, None] * q.norm(dim=1)[:, None, :]
    cosines = (s.transpose(1, 2) @ q) / (norms + 1e-7)  # (B, M, N)
    best: Tensor = cosines.amax(1, keepdim=True).unflatten(2, query.shape[-2:])
    return best


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that are not 255; zero if there are none.

    Scores are (B, C, H, W), their target classes long (B, H, W).
    """
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)
