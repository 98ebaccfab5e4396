"""What the scorer sees of images: tokens of a ViT, and what a CLIP reads a class name out of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
from piclip.clip.towers import VisualTower

Tower: TypeAlias = Encoder | VisualTower


@dataclass(frozen=True, eq=False)
class Seen:
    """A batch of B images of one grid."""

    tokens: Tensor  # unit vectors of the patches after each of L blocks, float32 (L, B, N, D)
    grid: tuple[int, int]  # (h, w) with N = h * w
    encoding: Encoding | None  # by the CLIP; None without one, or for tokens alone


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
        towers = (self.tower, self.encoder or self.tower)
        return tuple(dict.fromkeys(_input_size(image, tower) for tower in towers))

    def see(self, images: Sequence[Image.Image], *, texts: bool = True) -> Seen:
        """Encodes RGB images of the same `sizes`; without ``texts`` no name can be looked for."""
        encoder, encoding = self.encoder if texts else None, None
        pixels = _pixels(images, self.tower)
        if encoder is not None and encoder is self.tower:
            encoding = encoder.encode(pixels, self.blocks)
            tokens: Sequence[Tensor] = encoding.tokens
        else:
            tokens = self.tower.tokens(pixels, self.blocks)
            if encoder is not None:
                encoding = encoder.encode(_pixels(images, encoder))
        units = torch.stack([F.normalize(part.float(), dim=-1) for part in tokens])
        return Seen(units, _grid(images[0], self.tower), encoding)

    def see_support(self, image: Image.Image, *, texts: bool = True) -> Seen:
        """As `see` of one image, once for as long as the cache keeps it."""
        if self.cache is None:
            return self.see([image], texts=texts)
        encoder = self.encoder if texts else None
        key = content_key(torch.from_numpy(np.array(image)), str(encoder is not None))
        kept = self.cache.get(key)
        if kept is None:
            seen = self.see([image], texts=texts)
            kept = {"tokens": seen.tokens}
            if seen.encoding is not None:
                kept["last_input"] = seen.encoding.last_input
                kept["attention"] = seen.encoding.attention
            self.cache.put(key, kept)
            return seen
        encoding = None
        if encoder is not None:  # only its last block is run again
            grid = _grid(image, encoder)
            encoding = encoder.resume(kept["last_input"], kept["attention"], grid)
        return Seen(kept["tokens"].to(self.tower.device), _grid(image, self.tower), encoding)

    def texts(self, names: Sequence[str], synonyms: Synonyms | None) -> Tensor:
        """Vectors of X names and of their absence, (X, 2, E); (X, 0, 0) without a CLIP."""
        if self.encoder is None:
            return torch.zeros(len(names), 0, 0, device=self.tower.device)
        texts = text_prototypes(self.encoder.encode_text, list(names), synonyms)
        return torch.stack(texts, dim=1).to(self.tower.device)


def _input_size(image: Image.Image, tower: Tower) -> tuple[int, int]:
    return fit_size(
        image.height, image.width, image_size=tower.settings.image_size, patch=tower.patch_size
    )


def _grid(image: Image.Image, tower: Tower) -> tuple[int, int]:
    height, width = _input_size(image, tower)
    return height // tower.patch_size, width // tower.patch_size


def _pixels(images: Sequence[Image.Image], tower: Tower) -> Tensor:
    size, settings = _input_size(images[0], tower), tower.settings
    return torch.stack([to_pixels(image, size, settings.mean, settings.std) for image in images])
