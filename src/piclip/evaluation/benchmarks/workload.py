"""What the speed benchmark runs: a CLIP with random weights, and what is done with one query.

Classes have cached texts and supports. How long it takes does not depend on the values.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.settings import ModelSettings
from piclip.io.supports import Support
from piclip.priors import refine_prior, visual_text_prior, visual_visual_prior
from piclip.segmenter import FewShotSegmenter

MANY = 20  # classes
SEGMENTED = 4  # images of one round of `segment_files`
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
    large: tuple[int, int] = (4000, 3000)
    """(width, height) of the photograph that `predict_large` is measured on."""


class CachedClasses(NamedTuple):
    """What is kept of C classes with one support each."""

    foreground: Tensor  # text vectors, (C, E)
    background: Tensor
    last: Tensor  # support tokens after the last block, (C, 1, N, D)
    previous: Tensor  # and after the one before
    mask: Tensor  # the object's patches, bool (C, 1, N)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX, on Linux)."""
    processors = Path("/proc/cpuinfo")
    flags = processors.read_text(encoding="utf-8").split() if processors.exists() else ()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


class _RandomTexts(Encoder):
    """A CLIP whose text tower is a stub, since texts are embedded once."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Random unit vectors, (T, E)."""
        generator = torch.Generator().manual_seed(3)
        return F.normalize(torch.randn(len(texts), self.embed_dim, generator=generator), dim=-1)


def random_encoder(workload: Workload, dtype: str = "float32") -> Encoder:
    """A CLIP with random weights."""
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
    settings = ModelSettings(image_size=workload.image_size)
    return _RandomTexts(CLIPModel(config), None, settings=settings, device="cpu", dtype=dtype)


def random_query(workload: Workload) -> Tensor:
    """Pixels (1, 3, S, S)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, workload.image_size, workload.image_size, generator=generator)


def random_classes(workload: Workload, count: int, dtype: torch.dtype) -> CachedClasses:
    """Random texts and support tokens of some classes."""
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


def random_image(workload: Workload, seed: int) -> Image.Image:
    """A square RGB image of soft colours, at the model's input size."""
    values = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((workload.image_size, workload.image_size))


def random_segmenter(encoder: Encoder, workload: Workload, classes: int) -> FewShotSegmenter:
    """A segmenter that has seen one image of each of some classes."""
    side = workload.image_size
    mask = np.zeros((side, side), dtype=bool)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True  # `_OBJECT_SHARE` of it
    supports = {f"class {n}": Support(random_image(workload, n), mask) for n in range(classes)}
    return FewShotSegmenter(encoder).fit(supports)


def segment_files(segmenter: FewShotSegmenter, workload: Workload) -> None:
    """Writes a few random images as JPEG, segments them and writes their masks."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name, f"{number}.jpg") for number in range(SEGMENTED)]
        for number, file in enumerate(files):
            random_image(workload, number).save(file)
        for result in segmenter.stream(files):
            result.save(Path(name, "masks"))


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
    start = time.perf_counter()
    encoding = encoder.encode(pixels)
    return {"encoding": time.perf_counter() - start, **_priors(encoder, encoding, classes)}


def reference_priors(encoder: Encoder, pixels: Tensor, classes: CachedClasses) -> None:
    """The same priors in the order of the published code, with the functions of `piclip.priors`.

    It encodes a query twice, for the text prior and for the visual one, and goes through the
    classes one by one.
    """
    encoder.encode(pixels)
    encoding = encoder.encode(pixels)
    for number in range(len(classes.foreground)):
        _priors(encoder, encoding, CachedClasses(*(of[number : number + 1] for of in classes)))


def _priors(encoder: Encoder, encoding: Encoding, classes: CachedClasses) -> dict[str, float]:
    marks = [time.perf_counter()]
    text_maps = visual_text_prior(
        encoding.last_block,
        classes.foreground,
        classes.background,
        logit_scale=encoder.logit_scale,
        grid=encoding.grid,
    )
    marks.append(time.perf_counter())
    visual_visual_prior(encoding.last, classes.last, classes.mask)
    visual_visual_prior(encoding.previous, classes.previous, classes.mask)
    marks.append(time.perf_counter())
    refine_prior(text_maps, encoding.attention)
    marks.append(time.perf_counter())
    stages = ("text prior", "visual prior", "refinement")
    return dict(zip(stages, (end - start for start, end in pairwise(marks)), strict=True))
