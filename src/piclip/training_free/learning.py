"""From labelled images to a class's memory, with weights that their own masks calibrate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from piclip.clip.encoder import Encoder, Encoding
from piclip.io.supports import (
    ClassMemory,
    LabelledImage,
    encode_objects,
    fit_discriminant,
    patch_features,
)
from piclip.training_free.evidence import gather_evidence
from piclip.training_free.fusion import calibrate

CALIBRATED_ON = 8
"""Most supports that the weights are calibrated on; more change little and cost memory."""


@torch.inference_mode()
def learn_class(
    encoder: Encoder,
    name: str,
    supports: Sequence[LabelledImage],
    foreground: Tensor,
    background: Tensor,
) -> ClassMemory:
    """Builds the memory of one class.

    Args:
        encoder: The frozen CLIP.
        name: The class.
        supports: Its labelled images.
        foreground: Text vector of the class, (E,).
        background: Text vector of its absence, (E,).
    """
    settings = encoder.settings
    encodings = [encoder.encode(support.pixels[None]) for support in supports]
    features = [patch_features(encoding)[0] for encoding in encodings]
    coverage = [support.coverage.flatten().to(encoder.device) for support in supports]
    last, previous, valid = encode_objects(encoder, supports)
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
            encoding, target = encoder.encode(mirror.pixels[None]), mirror.coverage
        maps.append(_evidence(encoder, encoding, memory(others) if others else whole))
        targets.append(target.flatten())
    weights = calibrate(
        torch.cat(maps, dim=-1)[..., None],
        torch.cat(targets).to(encoder.device)[None, :, None],
        default,
        settings.calibration / len(maps),
    )
    return replace(whole, fusion=weights)


def _evidence(encoder: Encoder, encoding: Encoding, memory: ClassMemory) -> Tensor:
    """The fused maps of one labelled image, (1, M, N)."""
    evidence = gather_evidence(encoding, [memory], logit_scale=encoder.logit_scale)
    return evidence[0].stacked().flatten(2)
