"""From labelled images to a class's memory, with weights that their own masks calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, content_key
from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.features import SupportFeatures, encode_object, pad_objects
from piclip.clip.preprocessing import (
    fit_size,
    mask_coverage,
    object_patches,
    object_pixels,
    to_pixels,
)
from piclip.errors import MaskError
from piclip.training_free.evidence import (
    ClassMemory,
    evidence_logits,
    gather_evidence,
    patch_features,
)

NEWTON_STEPS = 8
CALIBRATED_ON = 8
"""Most supports that the weights are calibrated on; more change little and cost memory."""


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


@torch.inference_mode()
def learn_class(
    encoder: Encoder,
    name: str,
    supports: Sequence[LabelledImage],
    foreground: Tensor,
    background: Tensor,
    cache: Cache | None = None,
) -> ClassMemory:
    """Builds the memory of one class.

    Args:
        encoder: The frozen CLIP.
        name: The class.
        supports: Its labelled images.
        foreground: Text vector of the class, (E,).
        background: Text vector of its absence, (E,).
        cache: Keeps what the CLIP makes of supports, for classes that are learned again with more.
    """
    settings = encoder.settings
    encodings = [_encoding(encoder, support.pixels, cache) for support in supports]
    features = [patch_features(encoding)[0] for encoding in encodings]
    coverage = [support.coverage.flatten().to(encoder.device) for support in supports]
    last, previous, valid = pad_objects([_object(encoder, s, cache) for s in supports])
    default = torch.tensor(settings.fusion_for(len(supports)), device=encoder.device)

    def memory(kept: Sequence[int]) -> ClassMemory:
        direction, offset = fit_discriminant(
            torch.cat([features[k] for k in kept]),
            torch.cat([coverage[k] for k in kept]),
            settings.ridge,
        )
        chosen = list(kept)
        return ClassMemory(
            name,
            foreground,
            background,
            last[chosen],
            previous[chosen],
            valid[chosen],
            direction,
            offset,
            default,
        )

    everything = range(len(supports))
    whole = memory(everything)
    maps, targets = [], []
    for held_out in everything[:CALIBRATED_ON]:
        others = [k for k in everything if k != held_out]
        encoding, target = encodings[held_out], supports[held_out].coverage
        if not others:
            # A single support is its own query, seen in a mirror.
            mirror = supports[held_out].mirrored()
            encoding, target = _encoding(encoder, mirror.pixels, cache), mirror.coverage
        maps.append(_evidence(encoder, encoding, memory(others) if others else whole))
        targets.append(target.flatten())
    weights = calibrate(
        torch.cat(maps, dim=-1)[..., None],
        torch.cat(targets).to(encoder.device)[None, :, None],
        default,
        settings.calibration / len(maps),
    )
    return replace(whole, fusion=weights)


def _encoding(encoder: Encoder, pixels: Tensor, cache: Cache | None) -> Encoding:
    """The encoding of one image, from what is kept of it if it came before."""
    if cache is None:
        return encoder.encode(pixels[None])
    key = content_key("whole", pixels)
    kept = cache.get(key)
    if kept is not None:
        grid = (pixels.shape[1] // encoder.patch_size, pixels.shape[2] // encoder.patch_size)
        return encoder.resume(kept["last_input"], kept["attention"], grid)
    encoding = encoder.encode(pixels[None])
    cache.put(key, {"last_input": encoding.last_input, "attention": encoding.attention})
    return encoding


def _object(encoder: Encoder, support: LabelledImage, cache: Cache | None) -> SupportFeatures:
    """The object's tokens of one support, kept too."""
    pixels = support.pixels * object_pixels(support.mask)
    patches = support.object_patches.flatten()
    if cache is None:
        return encode_object(encoder, pixels, patches)
    key = content_key("object", pixels, patches)
    kept = cache.get(key)
    if kept is None:
        kept = vars(encode_object(encoder, pixels, patches))
        cache.put(key, kept)
    return SupportFeatures(**kept)


def _evidence(encoder: Encoder, encoding: Encoding, memory: ClassMemory) -> Tensor:
    """The fused maps of one labelled image, (1, M, N)."""
    evidence = gather_evidence(encoding, [memory], logit_scale=encoder.logit_scale)
    return evidence[0].stacked().flatten(2)


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


def with_bias(inputs: Tensor) -> Tensor:
    """Inputs (P, M) with a last column of ones, (P, M + 1)."""
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)


def calibrate(evidence: Tensor, coverage: Tensor, default: Tensor, strength: float) -> Tensor:
    """Adjusts the weights to images whose masks are known.

    Maximum a posteriori logistic regression by Newton's method: the patches' coverage is the
    target, object and background count equally, and a Gaussian prior of precision ``strength``
    (in units of one image) keeps the weights near the default.

    Args:
        evidence: Maps of the supports, each made without looking at its own mask, (K, M, h, w).
        coverage: Share of each patch that is object, (K, h, w).
        default: Weights and bias to start from, (M + 1,).
        strength: How firmly to hold on to the default; 0 or more.

    Returns:
        Weights and bias, (M + 1,).
    """
    inputs = evidence_logits(evidence).double().movedim(1, -1).flatten(0, -2)  # (P, M)
    inputs = with_bias(inputs)
    target = coverage.double().flatten()
    share = target.mean().clamp(1e-3, 1 - 1e-3)
    importance = target / share + (1 - target) / (1 - share)
    importance = importance / importance.sum() * len(coverage)
    weights = logistic_regression(inputs, target, importance, default.double(), strength)
    return weights.to(default.dtype)


def logistic_regression(
    inputs: Tensor,
    target: Tensor,
    importance: Tensor,
    start: Tensor,
    strength: float,
    *,
    steps: int = NEWTON_STEPS,
) -> Tensor:
    """Logistic regression by Newton's method, held near where it starts.

    Minimises ``sum_p i_p BCE(sigmoid(x_p . w), y_p) + strength / 2 |w - start|^2``.

    Args:
        inputs: x, float64 (P, M).
        target: y in [0, 1], (P,).
        importance: i, (P,).
        start: Weights to start from, (M,).
        strength: How firmly to hold on to the start; 0 or more.
        steps: Newton steps.

    Returns:
        Weights w, (M,).
    """
    weights = start
    identity = torch.eye(len(weights), dtype=inputs.dtype, device=inputs.device)
    for _ in range(steps):
        probability = torch.sigmoid(inputs @ weights)
        gradient = inputs.T @ (importance * (probability - target)) + strength * (weights - start)
        curvature = importance * probability * (1 - probability)
        # The small constant lets inputs that depend on each other be solved for without a prior.
        hessian = (inputs * curvature[:, None]).T @ inputs + (strength + 1e-6) * identity
        weights = weights - torch.linalg.solve(hessian, gradient)
    return weights
