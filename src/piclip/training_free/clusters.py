"""Parts of an image that its own patches agree on, to average a map over."""

from __future__ import annotations

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

COUNTS = (6, 8, 12, 16, 24)
"""Into how many parts an image is cut; a map is averaged over all of these cuts."""


def cluster_parts(tokens: Tensor) -> Tensor:
    """Cuts one image by average linkage of the cosine distances between its patches.

    Args:
        tokens: Unit vectors of the patches, those of several blocks side by side and scaled to
            unit length again, (N, D).

    Returns:
        Number of the part of each patch in each cut, int64 (cuts, N), on the tokens' device.
    """
    distance = (1 - tokens.float() @ tokens.float().mT).clamp_min(0).cpu()
    distance.fill_diagonal_(0)
    # Only a half is read of the matrix, whose two halves differ in the last bits.
    tree = linkage(squareform(distance.double().numpy(), checks=False), "average")
    cuts = np.stack([fcluster(tree, count, "maxclust") - 1 for count in COUNTS])
    return torch.from_numpy(cuts).long().to(tokens.device)


def average_over_parts(maps: Tensor, parts: Tensor) -> Tensor:
    """Replaces each patch of maps (C, N) by the mean of its part (cuts, N), mean over the cuts."""
    total = torch.zeros_like(maps)
    for cut in parts:
        inside = torch.nn.functional.one_hot(cut).to(maps.dtype)
        total += (maps @ inside / inside.sum(0)) @ inside.mT
    return total / len(parts)
