"""What a decoder works on: the backbone's maps of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Maps of the backbone's stages 2, 3 and 4: (N, C, h, w) each.

    ``low`` has the size of ``middle``; ``high`` is empty where nothing reads it.
    """

    low: Tensor
    middle: Tensor
    high: Tensor

    def joined(self) -> Tensor:
        """Returns what the reductions take: the channels of ``middle``, then those of ``low``."""
        return torch.cat([self.middle, self.low], 1)

    def rows(self, rows: slice) -> Features:
        """Returns the maps of some of the N images."""
        return Features(self.low[rows], self.middle[rows], self.high[rows])

    @classmethod
    def stacked(cls, parts: Sequence[Features]) -> Features:
        """Returns the maps of all images of several parts, one part after the other."""
        return cls(
            torch.cat([maps.low for maps in parts]),
            torch.cat([maps.middle for maps in parts]),
            torch.cat([maps.high for maps in parts]),
        )


@dataclass(frozen=True)
class EpisodeFeatures:
    """A batch of episodes whose images have been through the backbone.

    Attributes:
        query: Of B queries.
        supports: Of their B * K supports, those of the first query first.
        masks: Masks of the supports, (B, K, H', W'): 1 is the object; 0 and 255 are not.
        priors: The CLIP priors, (B, 2, h, w), for ``prior="piclip"``.
        base_class: In training, the episode's class among the base classes, long (B,).
    """

    query: Features
    supports: Features
    masks: Tensor
    priors: Tensor | None = None
    base_class: Tensor | None = None
