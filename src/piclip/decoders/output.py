"""What a decoder says, and the loss that its scores are trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from piclip.decoders.backbones import resize
from piclip.io.images import IGNORE


@dataclass(frozen=True)
class DecoderOutput:
    """What a decoder says about a batch of queries.

    Attributes:
        logits: Scores of background and foreground, (B, 2, H, W).
        auxiliary: Further scores (B, 2, H, W) that are trained towards the same mask.
        base_logits: Scores of background and the base classes, (B, 1 + base, H, W), if the
            decoder has a base learner.
        extra: Further scalar terms of the loss, by name.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    base_logits: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def resized(self, size: Sequence[int]) -> DecoderOutput:
        """The same with all scores at (H, W), bilinearly."""
        base = self.base_logits
        return replace(
            self,
            logits=resize(self.logits, size),
            auxiliary=tuple(resize(scores, size) for scores in self.auxiliary),
            base_logits=None if base is None else resize(base, size),
        )


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that are not 255; zero if there are none.

    Args:
        logits: Scores, (B, C, H, W).
        target: Classes, long (B, H, W), 255 = ignore.
    """
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)
