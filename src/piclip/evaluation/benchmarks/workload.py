"""What the speed benchmark runs: a random CLIP, one query, classes with cached supports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.encoder import Encoder, Encoding
from piclip.priors import refine_prior, visual_text_prior, visual_visual_prior

_OBJECT_SHARE = 0.25  # of a support's patches; VOC objects of 2048 pixels and more cover about that


@dataclass(frozen=True)
class Workload:
    """Sizes of the model and the image; by default ViT-B/16 at 480 x 480."""

    image_size: int = 480
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    embed_dim: int = 512


@dataclass(frozen=True, eq=False)
class CachedClasses:
    """What is kept of C classes with one support each.

    Attributes:
        foreground: Text vectors, (C, E).
        background: Text vectors, (C, E).
        last: Support tokens after the last block, (C, 1, N, D).
        previous: Support tokens after the second-to-last block, (C, 1, N, D).
        mask: The object's patches, bool (C, 1, N).
    """

    foreground: Tensor
    background: Tensor
    last: Tensor
    previous: Tensor
    mask: Tensor

    def first(self, count: int) -> CachedClasses:
        """The first ``count`` classes."""
        return CachedClasses(
            self.foreground[:count],
            self.background[:count],
            self.last[:count],
            self.previous[:count],
            self.mask[:count],
        )


def random_encoder(workload: Workload, dtype: str = "float32") -> Encoder:
    """A CLIP with random weights; the text tower is a stub, since texts are embedded once."""
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415 - slow to import

    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        },
        vision_config={
            "hidden_size": workload.width,
            "intermediate_size": 4 * workload.width,
            "num_hidden_layers": workload.depth,
            "num_attention_heads": workload.heads,
            "image_size": 14 * workload.patch_size,
            "patch_size": workload.patch_size,
        },
        projection_dim=workload.embed_dim,
        attn_implementation="sdpa",
    )
    return Encoder(CLIPModel(config), None, device="cpu", dtype=dtype)


def random_query(workload: Workload) -> Tensor:
    """Pixels (1, 3, S, S)."""
    generator = torch.Generator().manual_seed(1)
    size = workload.image_size
    return torch.randn(1, 3, size, size, generator=generator)


def random_classes(workload: Workload, count: int, dtype: torch.dtype) -> CachedClasses:
    """Random texts and support tokens: how long the priors take does not depend on the values."""
    generator = torch.Generator().manual_seed(2)
    patches = (workload.image_size // workload.patch_size) ** 2

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return CachedClasses(
        foreground=F.normalize(normal(count, workload.embed_dim), dim=-1),
        background=F.normalize(normal(count, workload.embed_dim), dim=-1),
        last=normal(count, 1, patches, workload.width).to(dtype),
        previous=normal(count, 1, patches, workload.width).to(dtype),
        mask=torch.rand(count, 1, patches, generator=generator) < _OBJECT_SHARE,
    )


@torch.inference_mode()
def plain_forward(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Transformers' own pass over the image, with scaled-dot-product attention."""
    tokens: Tensor = encoder.model.vision_model(
        pixels.to(encoder.dtype), interpolate_pos_encoding=True
    ).last_hidden_state
    return tokens


def query_priors(encoder: Encoder, pixels: Tensor, classes: CachedClasses) -> dict[str, float]:
    """Encodes a query and computes all its priors: VTP, VVP of both blocks, refined VTP.

    Returns:
        Seconds of each stage.
    """
    marks = [time.perf_counter()]
    encoding = encoder.encode(pixels)
    marks.append(time.perf_counter())
    text_maps = _text_maps(encoder, encoding, classes)
    marks.append(time.perf_counter())
    visual_visual_prior(encoding.last, classes.last, classes.mask)
    visual_visual_prior(encoding.previous, classes.previous, classes.mask)
    marks.append(time.perf_counter())
    refine_prior(text_maps, encoding.attention)
    marks.append(time.perf_counter())
    stages = ("encoding", "text prior", "visual prior", "refinement")
    return dict(zip(stages, (end - start for start, end in pairwise(marks)), strict=True))


def _text_maps(encoder: Encoder, encoding: Encoding, classes: CachedClasses) -> Tensor:
    return visual_text_prior(
        encoding.last_block,
        classes.foreground,
        classes.background,
        logit_scale=encoder.logit_scale,
        grid=encoding.grid,
    )
