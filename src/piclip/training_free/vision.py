"""What the scorer sees of images: tokens of a ViT, and what a CLIP reads a class name out of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, content_key
from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.preprocessing import fit_size, to_pixels
from piclip.clip.prompts import Synonyms, text_prototypes
from piclip.clip.settings import ModelSettings


class Tower(Protocol):
    """A frozen ViT image tower: `piclip.clip.encoder.Encoder` or another `VisualTower`."""

    source: str | None
    model: Any
    settings: ModelSettings
    patch_size: int
    width: int
    device: torch.device
    dtype: torch.dtype

    @property
    def depth(self) -> int:
        """Number of blocks."""
        ...

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> Sequence[Tensor]:
        """Patch tokens (B, N, D) after each of these blocks, counted from 1."""
        ...


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of B images of one grid.

    Attributes:
        tokens: Unit vectors of the patches after each of L blocks, float32 (L, B, N, D).
        grid: (h, w) with N = h * w.
        encoding: What the CLIP makes of them; None without a CLIP, or for tokens alone.
    """

    tokens: Tensor
    grid: tuple[int, int]
    encoding: Encoding | None


class Vision:
    """The image side: one tower whose tokens are compared, and the CLIP whose names are read.

    Args:
        tower: The tower; the CLIP itself where it is not another.
        encoder: The CLIP; None where there are no names.
        cache: Keeps what was made of supports.
        settings: Instead of the tower's own.
    """

    def __init__(
        self,
        tower: Tower,
        encoder: Encoder | None = None,
        cache: Cache | None = None,
        *,
        settings: ModelSettings | None = None,
    ) -> None:
        self.tower, self.encoder, self.cache = tower, encoder, cache
        self.settings = settings or tower.settings
        depth = tower.depth
        self.blocks = self.settings.blocks or (max(1, round(depth * 3 / 4)), depth)

    def sizes(self, image: Image.Image) -> tuple[tuple[int, int], ...]:
        """Input sizes of an image, those of images that can be seen together are the same."""
        return tuple(_input_size(image, tower) for tower in self._towers())

    def see(self, images: Sequence[Image.Image]) -> Seen:
        """Encodes RGB images of the same `sizes`."""
        pixels = _pixels(images, self.tower)
        encoding: Encoding | None = None
        if self.encoder is not None and self.encoder is self.tower:
            encoding = self.encoder.encode(pixels, self.blocks)
            tokens: Sequence[Tensor] = encoding.tokens
        else:
            tokens = self.tower.tokens(pixels, self.blocks)
            if self.encoder is not None:
                encoding = self.encoder.encode(_pixels(images, self.encoder))
        return Seen(_units(tokens), self._grid(pixels), encoding)

    def see_support(self, image: Image.Image, *, texts: bool = True) -> Seen:
        """Encodes one RGB image, once for as long as the cache keeps it.

        Args:
            image: A support, or a part of it.
            texts: Whether names will be looked for in it.
        """
        asked = self.encoder is not None and texts
        key = "" if self.cache is None else content_key(_values(image), str(asked))
        kept = None if self.cache is None else self.cache.get(key)
        if kept is not None:
            return self._again(kept)
        seen = self.see([image]) if asked else self._tokens(image)
        if self.cache is not None:
            self.cache.put(key, _to_keep(seen))
        return seen

    def texts(self, names: Sequence[str], synonyms: Synonyms | None) -> Tensor:
        """Vectors of X names and of their absence, (X, 2, E); (X, 0, 0) without a CLIP."""
        if self.encoder is None:
            return torch.zeros(len(names), 0, 0, device=self.tower.device)
        texts = text_prototypes(self.encoder.encode_text, list(names), synonyms)
        return torch.stack(texts, dim=1).to(self.tower.device)

    def _again(self, kept: Mapping[str, Tensor]) -> Seen:
        """What `_to_keep` kept; of the CLIP only the last block is run again."""
        encoding = None
        if self.encoder is not None and "read" in kept:
            read = _pair(kept["read"])
            encoding = self.encoder.resume(kept["last_input"], kept["attention"], read)
        return Seen(kept["tokens"].to(self.tower.device), _pair(kept["grid"]), encoding)

    def _tokens(self, image: Image.Image) -> Seen:
        pixels = _pixels([image], self.tower)
        return Seen(_units(self.tower.tokens(pixels, self.blocks)), self._grid(pixels), None)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.tower.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def _towers(self) -> list[Tower]:
        if self.encoder is None or self.encoder is self.tower:
            return [self.tower]
        return [self.tower, self.encoder]


def _units(tokens: Sequence[Tensor]) -> Tensor:
    return torch.stack([F.normalize(part.float(), dim=-1) for part in tokens])


def _input_size(image: Image.Image, tower: Tower) -> tuple[int, int]:
    return fit_size(
        image.height, image.width, image_size=tower.settings.image_size, patch=tower.patch_size
    )


def _pixels(images: Sequence[Image.Image], tower: Tower) -> Tensor:
    size, settings = _input_size(images[0], tower), tower.settings
    return torch.stack([to_pixels(image, size, settings.mean, settings.std) for image in images])


def _values(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def _to_keep(seen: Seen) -> dict[str, Tensor]:
    kept = {"tokens": seen.tokens, "grid": torch.tensor(seen.grid)}
    if seen.encoding is not None:
        kept |= {
            "last_input": seen.encoding.last_input,
            "attention": seen.encoding.attention,
            "read": torch.tensor(seen.encoding.grid),
        }
    return kept


def _pair(values: Tensor) -> tuple[int, int]:
    first, second = values.tolist()
    return first, second
