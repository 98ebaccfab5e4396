"""What is kept of the supports of a class, and what a batch of queries gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image
from torch import Tensor

from piclip.io.supports import Labelled
from piclip.training_free.naming import Said
from piclip.training_free.upsampling import EnlargedScores
from piclip.training_free.vision import Seen


@dataclass(frozen=True, eq=False)
class ClassMemory:
    """All that is kept of the supports of one class.

    Attributes:
        name: The class.
        count: Number of supports K, int64 ().
        tokens: Patches that were shown, after each of L blocks, (L, M, D).
        spreads: Standard deviation of the cosines between them, for each block, (L,).
        coverage: Share of each of them that is object, (M,).
        owner: Number of the image that each of them is from, int64 (M,).
        texts: Text vectors of the class and of its absence, (2, E); (0, 0) without a text tower.
        agreement: How far the name's map agrees with the supports' masks, () in [0, 1].
        named: The CLIP's log-odds that the name is true of the supports, ().
        level: What presence is 0.5 at, ().
        margin: By how much its log-odds are lowered, so that the threshold fits, ().
    """

    name: str
    count: Tensor
    tokens: Tensor
    spreads: Tensor
    coverage: Tensor
    owner: Tensor
    texts: Tensor
    agreement: Tensor
    named: Tensor
    level: Tensor
    margin: Tensor

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
    """Standard deviation of the cosines between all patches, for each block, (L,).

    Of vectors with the mean m and the covariance S, the cosines of all pairs have the variance
    2 m^T S m + |S|^2, so no matrix of pairs is made, and narrow cosines lose no digits.

    Args:
        tokens: Unit vectors, (L, M, D).
    """
    mean = tokens.mean(1, keepdim=True)
    centred = tokens - mean
    covariance = centred.mT @ centred / tokens.shape[1]
    along = (mean @ covariance @ mean.mT).flatten()
    return (2 * along + covariance.square().sum((1, 2))).clamp_min(1e-8).sqrt()


@dataclass(frozen=True, eq=False)
class Shown:
    """A support or a negative as it was seen.

    Attributes:
        seen: The image, whole and without its encoding.
        coverage: Share of each of its N patches that is object, (N,).
        said: Of the name, B = C = 1; None without a CLIP.
        small: The image at the size at which edges are followed, H x W.
        small_coverage: Share of each of its pixels that is object, (H, W).
    """

    seen: Seen
    coverage: Tensor
    said: Said | None
    small: Image.Image
    small_coverage: Tensor


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said of B queries of one grid for C classes, on the patch grid.

    Attributes:
        values: What is enlarged to pixels, (B, C, h, w): log-odds of the class, or scores.
        maps: What they are made of, by the names of `piclip.results.Priors`, each in [0, 1] and of
            the same shape.
        presence: Probability that the class is in the image, (B, C); None where nobody asks.
    """

    values: Tensor
    maps: Mapping[str, Tensor]
    presence: Tensor | None


class Evidence(Protocol):
    """A way to make maps of classes out of images that were labelled."""

    def learn(
        self,
        name: str,
        supports: Iterable[Labelled],
        texts: Tensor,
        negatives: Iterable[Image.Image],
    ) -> ClassMemory:
        """Builds the memory of one class.

        Args:
            name: The class.
            supports: RGB images with their masks (H, W), none of them empty.
            texts: Vectors of the class and of its absence, (2, E); (0, 0) without a CLIP.
            negatives: RGB images without the class.
        """
        ...

    def answer(
        self, seen: Seen, memories: Sequence[ClassMemory], contrast: Tensor | None
    ) -> Answer:
        """What is said of queries.

        Args:
            seen: The queries.
            memories: The classes.
            contrast: Texts (X, E) of other things in the images.
        """
        ...

    def enlarge(
        self, values: Tensor, presence: Tensor | None, image: Image.Image
    ) -> EnlargedScores:
        """Scores at the image's own size of values (C, h, w); of presence (C,) where it is told."""
        ...
