"""Decoders that are quick to build and to run, with random weights."""

import torch

from piclip.decoders import FewShotDecoder, build_decoder

OPTIONS = {
    "pfenet": {"scales": [9, 5, 3]},
    "bam": {"base_classes": 3, "base_width": 8},
    "hdmnet": {"base_classes": 3, "base_width": 8, "matching_width": 16},
}
"""What makes each decoder small."""


def small_decoder(name: str, *, seed: int = 0, **options) -> FewShotDecoder:
    """Always the same weights for a seed; in evaluation mode."""
    torch.manual_seed(seed)
    small = {"backbone": "tiny", "backbone_options": {"width": 4}, "width": 8}
    return build_decoder(name, **small, **OPTIONS[name], **options).eval()
