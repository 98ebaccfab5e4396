"""Is the class in the image at all?

An image-level score on one scale for every tower, compared with a level:

    u, o   mean of the query's patches, weighted by sigmoid(3 r), and of the object's patches
    a      cosines of all patches that were shown with o
    s      = (u.o - mean a) / (5 std a)         how like the object the region found is,
                                                 mean over the blocks
           + max r / 8                           how sure the surest patch is
           + trust (sigmoid(l v.(t_f - t_b)) - 1/2) / 2     the CLIP's own image-text score
    presence = sigmoid(8 (s - level))

r is the log-odds without the name; v is the image's vector in the space of the texts, made of the
class token, and l the CLIP's factor on cosines. The standardised cosine does not change when all
tokens share a direction, as in CLIP. With two supports or more the level lies half way between the
model's own and what each of them gets from the others; with negatives it lies above what these get.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.encoder import Encoding
from piclip.training_free.evidence import ClassMemory
from piclip.training_free.vision import Seen

_SLOPE = 8.0
_MARGIN = 0.1  # below the least of the supports' own scores
_MOST_LEFT_OUT = 8  # supports that are asked for; more tell little and cost time


class LogOdds(Protocol):
    """What presence needs of the evidence."""

    def log_odds(self, seen: Seen, memories: Sequence[ClassMemory]) -> Tensor:
        """R without the name, (B, C, h, w)."""
        ...


def presence_score(seen: Seen, memory: ClassMemory, log_odds: Tensor, logit_scale: float) -> Tensor:
    """S of one class in B queries, (B,).

    Args:
        seen: The queries.
        memory: The class.
        log_odds: r without the name, (B, N).
        logit_scale: Factor on cosines of images and texts.
    """
    region = torch.sigmoid(3 * log_odds)
    standard = []
    for query, support in zip(seen.tokens, memory.tokens, strict=True):
        found = F.normalize(torch.einsum("bn,bnd->bd", region, query), dim=-1)
        shown = F.normalize(memory.coverage @ support, dim=-1)
        cosines = support @ shown
        standard.append((found @ shown - cosines.mean()) / cosines.std().clamp_min(1e-4))
    score = torch.stack(standard).mean(0) / 5 + log_odds.amax(1) / 8
    if seen.encoding is None or not len(memory.texts):
        return score
    margin = image_vector(seen.encoding) @ (memory.texts[0] - memory.texts[1])
    return score + memory.trust * (torch.sigmoid(logit_scale * margin) - 0.5) / 2


def class_presence(seen: Seen, memory: ClassMemory, log_odds: Tensor, logit_scale: float) -> Tensor:
    """Probability that the class is in each of B queries, (B,); arguments as `presence_score`."""
    score = presence_score(seen, memory, log_odds, logit_scale)
    return torch.sigmoid(_SLOPE * (score - memory.level))


def presence_level(
    evidence: LogOdds,
    memory: ClassMemory,
    supports: Sequence[Seen],
    negatives: Sequence[Seen],
    *,
    default: float,
    logit_scale: float,
) -> Tensor:
    """What presence is 0.5 at.

    Args:
        evidence: Makes the log-odds.
        memory: The class.
        supports: Its supports, seen whole.
        negatives: Images without it; one that seems to hold it all the same is warned of.
        default: For one support and no negative.
        logit_scale: As in `presence_score`.

    Returns:
        The default; with two supports or more, half way from it to a little below the least score
        that one of them gets from the others; with negatives, no less than half way from the
        greatest of theirs to the supports'.
    """

    def score(seen: Seen, known: ClassMemory) -> Tensor:
        return presence_score(seen, known, evidence.log_odds(seen, [known])[:, 0].flatten(1), scale)

    scale = logit_scale
    level = memory.coverage.new_tensor(default)
    if len(supports) > 1:
        asked = enumerate(supports[:_MOST_LEFT_OUT])
        own = torch.cat([score(seen, _without(memory, number)) for number, seen in asked])
        level = (level + own.min() - _MARGIN) / 2
    if negatives:
        if len(supports) == 1:
            own = score(supports[0], memory)
        asked = enumerate(negatives, len(supports))
        others = torch.cat([score(seen, _without(memory, number)) for number, seen in asked])
        if others.max() >= own.max().clamp_min(default):
            warnings.warn(
                f"Negative {int(others.argmax()) + 1} of {len(negatives)} looks as much like "
                f"{memory.name!r} as its examples do; leave it out if it holds it.",
                stacklevel=2,
            )
        level = torch.maximum(level, (others.max() + own.min()) / 2)
    return level


def image_vector(encoding: Encoding) -> Tensor:
    """The class token after the final norm in the space of the texts, unit vectors (B, E)."""
    block = encoding.last_block
    head, token = block.head, block.output[:, 0]
    normed = F.layer_norm(token, token.shape[-1:], head.ln_weight, head.ln_bias, head.eps)
    return F.normalize((normed @ head.projection.mT).float(), dim=-1)


def _without(memory: ClassMemory, number: int) -> ClassMemory:
    kept = memory.owner != number
    return replace(
        memory,
        tokens=memory.tokens[:, kept],
        coverage=memory.coverage[kept],
        owner=memory.owner[kept],
    )
