"""What is kept of the supports of a class, and what a batch of queries gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from piclip.training_free.naming import Said
from piclip.training_free.vision import Seen


@dataclass(frozen=True, eq=False)
class ClassMemory:
    """All that is kept of the supports of one class."""

    name: str
    count: Tensor  # number of supports K, int64 ()
    tokens: Tensor  # patches that were shown, after each of L blocks, (L, M, D)
    spreads: Tensor  # standard deviation of the cosines between them, for each block, (L,)
    coverage: Tensor  # share of each of them that is object, (M,)
    owner: Tensor  # number of the image that each of them is from, int64 (M,)
    texts: Tensor  # of the class and of its absence, (2, E); (0, 0) without a text tower
    agreement: Tensor  # how far the name's map agrees with the supports' masks, () in [0, 1]
    named: Tensor  # the CLIP's log-odds that the name is true of the supports, ()
    level: Tensor  # what presence is 0.5 at, ()

    @property
    def shots(self) -> int:
        """Number of supports K."""
        return int(self.count)

    def without(self, number: int) -> ClassMemory:
        """The memory without the patches of one image."""
        kept = self.owner != number
        tokens = self.tokens[:, kept]
        return replace(
            self,
            tokens=tokens,
            spreads=cosine_spreads(tokens),
            coverage=self.coverage[kept],
            owner=self.owner[kept],
        )


def cosine_spreads(tokens: Tensor) -> Tensor:
    """Standard deviation of the cosines between all unit vectors (L, M, D) of each block, (L,).

    Of vectors with the mean m and the covariance S, the cosines of all pairs have the variance
    2 m^T S m + |S|^2, so no matrix of pairs is made, and narrow cosines lose no digits.
    """
    mean = tokens.mean(1, keepdim=True)
    centred = tokens - mean
    covariance = centred.mT @ centred / tokens.shape[1]
    along = (mean @ covariance @ mean.mT).flatten()
    return (2 * along + covariance.square().sum((1, 2))).clamp_min(1e-8).sqrt()


@dataclass(frozen=True, eq=False)
class Shown:
    """A support or a negative as it was seen."""

    seen: Seen  # whole and without its encoding
    coverage: Tensor  # share of each of its N patches that is object, (N,)
    said: Said | None  # of the name, B = C = 1; None without a CLIP


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of B queries of one grid for C classes, on the patch grid."""

    values: Tensor  # what is enlarged to pixels, (B, C, h, w): log-odds of the class, or scores
    maps: Mapping[str, Tensor]  # (B, C, h, w) each, in [0, 1], by the names of `results.Priors`
    presence: Tensor | None  # probability of each class, (B, C); None where it is not told
