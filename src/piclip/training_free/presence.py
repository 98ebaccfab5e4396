"""Is the class in the image at all?

An image-level score on one scale for every tower, compared with a level:

    u, o   mean of the query's patches, weighted by sigmoid(3 r), and of the object's patches
    a      cosines of all patches that were shown with o
    s      = (u.o - mean a) / (5 std a)         how like the object the region found is,
                                                mean over the blocks
           + max r / 8                          how sure the surest patch is
           + agreement sigmoid(n_s) (sigmoid(n_q) - 0.6)      what the CLIP says of the name
    presence = sigmoid(8 (s - level))

r is the log-odds without the name; agreement and n as in `piclip.training_free.naming`. The
standardised cosine does not change when all tokens share a direction, as in CLIP. With two supports
or more the level lies half way between the model's own and what each of them gets from the others;
with negatives it lies above what these get.

What is in the image must be somewhere in it. Where presence is sure of a class but no pixel of it
comes near the threshold t, all its log-odds r are raised (`lift`), as far as presence allows:

    r + min( max(0, logit t + 1 - max r), lift * max(0, logit presence) )
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.training_free.evidence import ClassMemory, Shown
from piclip.training_free.vision import Seen

_SLOPE = 8.0
_NEUTRAL = 0.6  # probability of the name that speaks neither for nor against the class
_MARGIN = 0.1  # below the least of the supports' own scores
_ABOVE = 1.0  # the threshold, in log-odds: where the surest pixel is raised to
_MOST_LEFT_OUT = 8  # supports that are asked for; more tell little and cost time


def presence_scores(
    seen: Seen, memories: Sequence[ClassMemory], log_odds: Tensor, named: Tensor | None
) -> Tensor:
    """S of classes in B queries, (B, C).

    By r without the names, (B, C, h, w), and, where a CLIP reads them, its log-odds that the names
    are true of the queries, (B, C).
    """
    region = torch.sigmoid(3 * log_odds.flatten(2))
    alike = torch.stack(
        [_likeness(seen, memory, region[:, index]) for index, memory in enumerate(memories)], dim=1
    )
    scores = alike / 5 + log_odds.amax((2, 3)) / 8
    if named is None:
        return scores
    known = torch.stack([memory.agreement * memory.named.sigmoid() for memory in memories])
    return scores + known * (named.sigmoid() - _NEUTRAL)


def _likeness(seen: Seen, memory: ClassMemory, region: Tensor) -> Tensor:
    """Standardised cosine of the region (B, N) with the object, mean over the blocks, (B,)."""
    standard = []
    for query, support in zip(seen.tokens, memory.tokens, strict=True):
        found = F.normalize((region[:, None] @ query)[:, 0], dim=-1)
        shown = F.normalize(memory.coverage @ support, dim=-1)
        cosines = support @ shown
        standard.append((found @ shown - cosines.mean()) / cosines.std().clamp_min(1e-4))
    return torch.stack(standard).mean(0)


def class_presence(
    seen: Seen, memories: Sequence[ClassMemory], log_odds: Tensor, named: Tensor | None
) -> Tensor:
    """Probability that classes are in each of B queries, (B, C); as `presence_scores`."""
    levels = torch.stack([memory.level for memory in memories])
    return present(presence_scores(seen, memories, log_odds, named), levels)


def present(scores: Tensor, levels: Tensor) -> Tensor:
    """Presence of scores s, (B, C), by what it is 0.5 at, (C,)."""
    return torch.sigmoid(_SLOPE * (scores - levels))


def lift(highest: Tensor, presence: Tensor, threshold: Tensor, share: float) -> Tensor:
    """By how much the log-odds of classes are raised.

    Args:
        highest: The log-odds of their surest pixels, (...).
        presence: Of the same, (...).
        threshold: Least score, (...) or one that goes with them.
        share: The model's ``lift``.

    Returns:
        0 or more, (...); 0 where presence is 0.5 or less.
    """
    missing = (torch.logit(threshold, eps=1e-6) + _ABOVE - highest).clamp_min(0)
    return torch.minimum(missing, share * torch.logit(presence, eps=1e-6).clamp_min(0))


def presence_level(
    log_odds: Callable[[Seen, Sequence[ClassMemory]], Tensor],
    memory: ClassMemory,
    supports: Sequence[Shown],
    negatives: Sequence[Shown],
    *,
    default: float,
) -> Tensor:
    """What presence is 0.5 at.

    Args:
        log_odds: Gives r of queries and classes without the names, (B, C, h, w).
        memory: The class.
        supports: Its supports.
        negatives: Images without it; one that seems to hold it all the same is warned of.
        default: For one support and no negative.

    Returns:
        The default; with two supports or more, half way from it to a little below the least score
        that one of them gets from the others; with negatives, no less than half way from the
        greatest of theirs to the supports'.
    """

    def score(one: Shown, known: ClassMemory) -> Tensor:
        supports_say = log_odds(one.seen, [known])
        named = None if one.said is None else one.said.log_odds
        return presence_scores(one.seen, [known], supports_say, named).flatten()

    level = memory.coverage.new_tensor(default)
    if len(supports) > 1:
        asked = enumerate(supports[:_MOST_LEFT_OUT])
        own = torch.cat([score(one, memory.without(number)) for number, one in asked])
        level = (level + own.min() - _MARGIN) / 2
    if negatives:
        if len(supports) == 1:
            own = score(supports[0], memory)
        asked = enumerate(negatives, len(supports))
        others = torch.cat([score(one, memory.without(number)) for number, one in asked])
        if others.max() >= own.max().clamp_min(default):
            warnings.warn(
                f"Negative {int(others.argmax()) + 1} of {len(negatives)} looks as much like "
                f"{memory.name!r} as its examples do; leave it out if it holds it.",
                stacklevel=2,
            )
        level = torch.maximum(level, (others.max() + own.min()) / 2)
    return level
