"""What the priors read out of a frozen CLIP, image by image: computed once, kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.cache import Cache, content_key, weights_hash
from piclip.clip.encoder import Encoder
from piclip.clip.preprocessing import mask_coverage, object_patches, object_pixels
from piclip.errors import UsageError

Picture = npt.NDArray[np.uint8] | Tensor
"""RGB, either uint8 (H, W, 3) or a float tensor (3, H, W) in [0, 1]."""

Mask = npt.NDArray[Any] | Tensor
"""(H, W); the object is where it is 1 (or True), so that 255, to be ignored, is not object."""


@dataclass(frozen=True, eq=False)
class QueryFeatures:
    """What the priors need of one query."""

    tokens: Tensor  # tokens that enter the last block, cls first, (1 + N, D)
    attention: Tensor  # mean attention between the N = h * w patches, (N, N)
    grid: tuple[int, int]  # (h, w)


@dataclass(frozen=True, eq=False)
class SupportFeatures:
    """What the priors need of one support: its object's patches."""

    last: Tensor  # tokens after the last block, (M, D); M is 0 for an empty mask
    previous: Tensor  # tokens after the second-to-last block, (M, D)


def encode_object(encoder: Encoder, pixels: Tensor, patches: Tensor) -> SupportFeatures:
    """Encodes a support that is masked in image space.

    Args:
        encoder: The frozen CLIP.
        pixels: Normalised, zero (the mean colour) outside the object, as published, (3, H, W).
        patches: Which of its patches are object, bool (N,).
    """
    previous, last = encoder.tokens(pixels[None], encoder.last_two)
    chosen = patches.to(last.device)
    return SupportFeatures(last[0, chosen].float(), previous[0, chosen].float())


def pad_objects(objects: Sequence[SupportFeatures]) -> tuple[Tensor, Tensor, Tensor]:
    """K supports as one tensor.

    Returns:
        Tokens after the last and after the second-to-last block, (K, M, D) each, padded with
        zeros to the largest object, and which places are filled, bool (K, M).
    """
    pad = torch.nn.utils.rnn.pad_sequence
    last = pad([item.last for item in objects], batch_first=True)
    previous = pad([item.previous for item in objects], batch_first=True)
    counts = torch.tensor([len(item.last) for item in objects], device=last.device)
    return last, previous, torch.arange(last.shape[1], device=last.device) < counts[:, None]


class FeatureMaker:
    """Encodes queries and masked supports with a frozen CLIP.

    Args:
        encoder: The frozen CLIP.
        cache: Keeps what was made on disk; for images that come back unchanged.
    """

    def __init__(self, encoder: Encoder, cache: Cache | None = None) -> None:
        self.encoder, self.cache = encoder, cache
        self.model_hash = ""
        if cache is not None:
            parts = str(encoder.dtype), str(encoder.attention_blocks)
            self.model_hash = content_key(weights_hash(encoder.model), *parts)

    def features(self, images: Sequence[Picture]) -> list[QueryFeatures]:
        """Encodes queries, each once; those of one size together.

        An image, of any size, is resized to the next multiples of the patch (473 to 480), no
        further.
        """
        pixels = [self._pixels(image) for image in images]

        def encode(batch: Tensor, _: list[int]) -> list[dict[str, Tensor]]:
            encoding = self.encoder.encode(batch)
            return [
                {"tokens": tokens, "attention": attention}
                for tokens, attention in zip(encoding.last_input, encoding.attention, strict=True)
            ]

        found = self._encoded(pixels, [content_key("query")] * len(pixels), encode)
        return [
            QueryFeatures(item["tokens"], item["attention"], self._grid(own))
            for item, own in zip(found, pixels, strict=True)
        ]

    def support_features(
        self, images: Sequence[Picture], masks: Sequence[Mask]
    ) -> list[SupportFeatures]:
        """Encodes supports, masked in image space: outside the object is the mean colour.

        A patch is object when half of it is, so that an object smaller than a patch is kept.

        Raises:
            UsageError: Images and masks differ in number or size.
        """
        if len(images) != len(masks):
            raise UsageError(f"There are {len(masks)} masks for {len(images)} support images.")
        pixels, patches = list[Tensor](), list[Tensor]()
        for image, mask in zip(images, masks, strict=True):
            own, chosen = self._labelled(image, mask)
            pixels.append(own)
            patches.append(chosen)

        def encode(batch: Tensor, indices: list[int]) -> list[dict[str, Tensor]]:
            previous, last = self.encoder.tokens(batch, self.encoder.last_two)
            return [
                {
                    "last": last[row, patches[i]].float(),
                    "previous": previous[row, patches[i]].float(),
                }
                for row, i in enumerate(indices)
            ]

        keys = [content_key("support", chosen) for chosen in patches]
        return [SupportFeatures(**item) for item in self._encoded(pixels, keys, encode)]

    def _encoded(
        self,
        pixels: Sequence[Tensor],
        keys: Sequence[str],
        encode: Callable[[Tensor, list[int]], list[dict[str, Tensor]]],
    ) -> list[dict[str, Tensor]]:
        """Encodes what the cache does not have."""
        found: list[dict[str, Tensor]] = [{} for _ in pixels]
        if self.cache is None:
            groups: dict[torch.Size, list[int]] = {}
            for index, image in enumerate(pixels):
                groups.setdefault(image.shape, []).append(index)
            for indices in groups.values():
                batch = torch.stack([pixels[i] for i in indices])
                for index, item in zip(indices, encode(batch, indices), strict=True):
                    found[index] = item
            return found
        for index, image in enumerate(pixels):
            key = content_key(self.model_hash, keys[index], image)
            kept = self.cache.get(key)
            if kept is None:
                # One at a time: what is in the cache then does not change a bit of the rest.
                (kept,) = encode(image[None], [index])
                self.cache.put(key, kept)
            found[index] = kept
        return found

    def _labelled(self, image: Picture, mask: Mask) -> tuple[Tensor, Tensor]:
        """Masked pixels (3, H, W) and which patches are object, bool (h * w,)."""
        object_mask = torch.as_tensor(mask) == 1
        height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
        if object_mask.shape != (height, width):
            raise UsageError(
                f"A support of {height} x {width} pixels has a mask of the shape "
                f"{tuple(object_mask.shape)}; give one of the same size."
            )
        pixels = self._pixels(image)
        coverage = mask_coverage(object_mask.cpu(), self._grid(pixels))
        chosen = object_patches(coverage) & (coverage > 0)
        share = object_mask[None, None].float()
        if share.shape[-2:] != pixels.shape[-2:]:
            share = F.interpolate(share, size=pixels.shape[-2:], mode="bilinear")
        return pixels * object_pixels(share[0, 0]).to(pixels.device), chosen.flatten()

    def _pixels(self, image: Picture) -> Tensor:
        """Normalised, (3, H, W), with sides that are multiples of the patch."""
        if isinstance(image, Tensor):
            values = image.float()
        else:
            values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) / 255.0
        patch = self.encoder.patch_size
        size = [-(-side // patch) * patch for side in values.shape[-2:]]
        if size != list(values.shape[-2:]):
            resized = F.interpolate(values[None], size=size, mode="bicubic", antialias=True)
            values = resized[0].clamp(0, 1)
        mean, std = (
            torch.tensor(value, device=values.device).view(3, 1, 1)
            for value in (self.encoder.settings.mean, self.encoder.settings.std)
        )
        return (values - mean) / std

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        patch = self.encoder.patch_size
        return pixels.shape[-2] // patch, pixels.shape[-1] // patch
