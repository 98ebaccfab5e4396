"""What a few labelled images teach: the memory that queries are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.preprocessing import fit_size, mask_coverage, to_pixels
from piclip.errors import MaskError
from piclip.io.decoding import ImageSource
from piclip.io.images import MAX_PIXELS, read_image, read_mask

LEAST_COVERAGE = 0.5
"""A patch or pixel is object when the mask covers at least this share of it."""


@dataclass(frozen=True)
class Support:
    """One labelled image.

    Attributes:
        image: A file, a Pillow image or an RGB array.
        mask: Where the class is: a file, a Pillow image or an array of the image's size.
    """

    image: ImageSource
    mask: ImageSource


def object_patches(coverage: Tensor) -> Tensor:
    """Which patches count as object: those covered by half, or else the best covered ones.

    Args:
        coverage: Share of each patch that is object, of any shape.

    Returns:
        Bool, of the same shape.
    """
    return coverage >= min(LEAST_COVERAGE, float(coverage.max()))


def object_pixels(share: Tensor) -> Tensor:
    """Which pixels of a support are kept: those that are half object, or else any that are.

    Args:
        share: Share of each pixel of the encoder's input that is object, of any shape.

    Returns:
        Bool, of the same shape.
    """
    inside = share >= LEAST_COVERAGE
    return inside if inside.any() else share > 0


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A support as the encoder takes it.

    Attributes:
        pixels: Normalised image, (3, H, W).
        mask: Its mask at the input's size, share of each pixel that is object, (H, W).
        coverage: Share of each patch that is object, (h, w).
    """

    pixels: Tensor
    mask: Tensor
    coverage: Tensor

    @property
    def object_patches(self) -> Tensor:
        """Bool (h, w): the patches that are object, see the function of this name."""
        return object_patches(self.coverage)

    def mirrored(self) -> LabelledImage:
        """The same image seen in a mirror."""
        return LabelledImage(self.pixels.flip(-1), self.mask.flip(-1), self.coverage.flip(-1))


def read_support(
    support: Support, encoder: Encoder, *, max_pixels: int = MAX_PIXELS
) -> LabelledImage:
    """Reads a support and fits it to the encoder's grid.

    Coverage of a patch is by area, not by its nearest pixel, so a small object is never lost.

    Raises:
        ImageError: The image cannot be read.
        MaskError: The mask is empty, of another size, or cannot be read.
    """
    return prepare_support(*read_labelled(support, max_pixels=max_pixels), encoder)


def read_labelled(
    support: Support, *, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, npt.NDArray[np.bool_]]:
    """Reads a support: an RGB image and its bool mask (H, W), which is not empty.

    Raises:
        ImageError: The image cannot be read.
        MaskError: The mask is empty, of another size, or cannot be read.
    """
    image = read_image(support.image, max_pixels=max_pixels)
    mask = read_mask(support.mask, size=(image.height, image.width), max_pixels=max_pixels)
    return image, mask


def prepare_support(
    image: Image.Image, mask: npt.NDArray[np.bool_], encoder: Encoder
) -> LabelledImage:
    """Fits an RGB image and its bool mask (H, W) to the encoder's grid."""
    size = fit_size(
        image.height, image.width, image_size=encoder.image_size, patch=encoder.patch_size
    )
    grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
    if not mask.any():
        raise MaskError("The mask has no foreground; mark at least one pixel of the object.")
    settings = encoder.settings
    return LabelledImage(
        to_pixels(image, size, settings.mean, settings.std),
        mask_coverage(mask, size),
        mask_coverage(mask, grid),
    )


@dataclass(frozen=True, eq=False)
class ClassMemory:
    """All that is kept of the supports of one class.

    Attributes:
        name: The class.
        foreground: Text vector of the class, (E,).
        background: Text vector of its absence, (E,).
        last: Object patches of the masked supports after the last block, (K, M, D).
        previous: The same after the second-to-last block.
        valid: Which of the M places hold a patch, bool (K, M).
        direction: Linear discriminant of object against background patches, (2D,).
        offset: Its constant.
        fusion: Weights of the evidence maps and, last, their bias.
    """

    name: str
    foreground: Tensor
    background: Tensor
    last: Tensor
    previous: Tensor
    valid: Tensor
    direction: Tensor
    offset: Tensor
    fusion: Tensor

    @property
    def shots(self) -> int:
        """Number of supports K."""
        return len(self.valid)


def encode_objects(
    encoder: Encoder, supports: Sequence[LabelledImage]
) -> tuple[Tensor, Tensor, Tensor]:
    """Object patches of supports that are masked in image space before they are encoded.

    Outside the mask the normalised image is zero (the mean colour), as published.

    Returns:
        Tokens after the last and after the second-to-last block, (K, M, D) each, padded with
        zeros to the largest object, and which places are filled, bool (K, M).
    """
    last, previous = [], []
    for support in supports:
        masked = support.pixels * object_pixels(support.mask)
        before, after = encoder.encode_tokens(masked[None])
        chosen = support.object_patches.flatten().to(after.device)
        last.append(after[0, chosen].float())
        previous.append(before[0, chosen].float())
    pad = torch.nn.utils.rnn.pad_sequence
    counts = torch.tensor([len(tokens) for tokens in last])
    valid = torch.arange(int(counts.max()))[None] < counts[:, None]
    return (
        pad(last, batch_first=True),
        pad(previous, batch_first=True),
        valid.to(last[0].device),
    )


def patch_features(encoding: Encoding) -> Tensor:
    """Unit vectors of the last two blocks side by side, float32 (B, N, 2D)."""
    normalise = torch.nn.functional.normalize
    parts = (encoding.last.float(), encoding.previous.float())
    return torch.cat([normalise(part, dim=-1) for part in parts], dim=-1)


def fit_discriminant(features: Tensor, coverage: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Ridge regression from patches to coverage, object and background counting equally.

    Unlike the visual-visual prior it learns from the supports' background too.

    Args:
        features: (P, F).
        coverage: Share of each patch that is object, (P,).
        ridge: Strength of the penalty on the direction's length.

    Returns:
        direction (F,) and offset () with ``score = features @ direction + offset``.
    """
    inside = object_patches(coverage)
    share = inside.float().mean()
    weight = torch.where(inside, 0.5 / share, 0.5 / (1 - share).clamp_min(1 / len(inside)))
    weight = (weight / weight.sum()).to(features.dtype)
    centre, level = weight @ features, weight @ coverage
    centred = features - centre
    moment = (centred * weight[:, None]).T @ centred
    moment.diagonal().add_(ridge)
    target = (centred * weight[:, None]).T @ (coverage - level)
    direction = torch.linalg.solve(moment, target)
    return direction, level - centre @ direction
