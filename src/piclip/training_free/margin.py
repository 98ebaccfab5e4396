"""How much surer a pixel of a class must be than the threshold says, as its supports tell.

One threshold t suits most classes. Where the background is cluttered it lets too much through, and
several supports show it: each has a mask, and is asked for with the others alone, as a query is.

    margin = argmax over d of    K IoU(r >= logit t + d)  -  d^2

r is what the others give for each of the K supports, at 8 pixels a patch, and the IoU that of all
together. The log-odds of queries are lowered by the margin, so that t fits and classes compete for
pixels by the same measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MARGINS = tuple(step / 10 for step in range(6))


def best_margin(answers: Sequence[tuple[Tensor, Tensor]], threshold: Tensor) -> Tensor:
    """The margin, (), one of `MARGINS`; 0 without answers.

    Args:
        answers: Log-odds r of each support and the share of each pixel that is object, both (H, W).
        threshold: t, ().
    """
    steps = threshold.new_tensor(MARGINS)
    levels = torch.logit(threshold, eps=1e-6) + steps
    hit, union = torch.zeros_like(steps), torch.zeros_like(steps)
    for log_odds, coverage in answers:
        found = (log_odds.flatten() >= levels[:, None]).to(coverage.dtype)
        inside = found @ coverage.flatten()
        hit += inside
        union += found.sum(1) + coverage.sum() - inside
    return steps[(len(answers) * hit / union.clamp_min(1e-6) - steps.square()).argmax()]
