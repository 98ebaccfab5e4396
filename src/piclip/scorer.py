"""What a segmenter scores with: the one interface of a frozen CLIP and of trained decoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.prompts import Synonyms
from piclip.io.supports import Labelled
from piclip.results import Priors, ScoreMaps

MemoryT = TypeVar("MemoryT")
"""What a scorer keeps of the supports of one class; nobody else looks into it."""


class Scored(NamedTuple):
    """What is said about one image, at its own size.

    Attributes:
        scores: One map per class; they compete for each pixel.
        priors: The maps on the patch grid behind them; None for a decoder's scores.
        presence: float32 (C,) in [0, 1], probability of each class to be in the image at all; None
            where the scorer does not tell.
    """

    scores: ScoreMaps
    priors: Priors | None
    presence: NDArray[np.float32] | None = None


class Scorer(Protocol[MemoryT]):
    """Turns labelled images into memories of classes, and memories and images into scores."""

    @property
    def threshold(self) -> float:
        """Least score of a class where people ask for no other, 0 to 1."""
        ...

    @property
    def takes_negatives(self) -> bool:
        """Whether images without a class teach anything about it; else `fit` is given none."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the CLIP's, or other ViT's, weights."""
        ...

    def to(self, device: str | torch.device) -> object:
        """Moves the model, in place; UsageError where there is no such device."""
        ...

    def fit(
        self,
        name: str,
        supports: Iterable[Labelled],
        *,
        negatives: Iterable[Image.Image],
        synonyms: Synonyms | None,
    ) -> MemoryT:
        """Learns one class from images that are read as they are asked for."""
        ...

    def score(
        self,
        images: Sequence[Image.Image],
        memories: Sequence[MemoryT],
        *,
        contrast: Sequence[str],
        synonyms: Synonyms | None,
        mirror: bool,
    ) -> Sequence[Scored]:
        """Scores one batch of RGB images; see `FewShotSegmenter.predict` for the arguments."""
        ...

    def identity(self) -> dict[str, Any]:
        """Which model this is, in JSON; another one has no use for this one's memories.

        "model", and "clip" and "revision" where there is one, are what
        `FewShotSegmenter.from_pretrained` takes.
        """
        ...

    def fingerprint(self) -> str:
        """A hash of all that decides about the scores but memories; the same in any folder."""
        ...

    def tensors(self, memory: MemoryT) -> dict[str, Tensor]:
        """A memory without its name, to be written."""
        ...

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> MemoryT:
        """The memory whose `tensors` these are; KeyError where one is missing."""
        ...
