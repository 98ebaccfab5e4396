"""Scores without training: the priors of a frozen CLIP, fused and brought to pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, weights_hash
from piclip.clip.encoder import Encoder
from piclip.clip.preprocessing import fit_size, to_pixels
from piclip.clip.prompts import Synonyms, text_prototypes
from piclip.io.supports import Support, read_labelled
from piclip.priors import transition_matrix
from piclip.results import Priors
from piclip.scorer import Scored
from piclip.training_free.evidence import ClassMemory, Evidence, fuse_classes, gather_evidence
from piclip.training_free.learning import learn_class, prepare_support
from piclip.training_free.upsampling import edge_aware_upsample

_TENSOR_FIELDS = tuple(field.name for field in fields(ClassMemory) if field.name != "name")


class ClipScorer:
    """The training-free scorer; see `piclip.scorer.Scorer` for its methods.

    Args:
        encoder: The frozen CLIP.
        cache: Keeps what this CLIP makes of supports, so that a class that is fitted again with
            one support more encodes that one alone.
    """

    def __init__(self, encoder: Encoder, cache: Cache | None = None) -> None:
        self.encoder, self.cache = encoder, cache

    @property
    def threshold(self) -> float:
        """What the CLIP is set to."""
        return self.encoder.settings.threshold

    @property
    def device(self) -> torch.device:
        """The CLIP's."""
        return self.encoder.device

    def to(self, device: str | torch.device) -> None:
        """Moves the CLIP."""
        self.encoder.to(device)

    def fit(
        self, name: str, supports: Sequence[Support], *, synonyms: Synonyms | None, max_pixels: int
    ) -> ClassMemory:
        """Encodes the supports once; their masks also set how much each prior counts."""
        read = (read_labelled(support, max_pixels=max_pixels) for support in supports)
        images = [prepare_support(*pair, self.encoder) for pair in read]
        texts = text_prototypes(self.encoder.encode_text, [name], synonyms)
        foreground, background = (text[0].to(self.encoder.device) for text in texts)
        return learn_class(self.encoder, name, images, foreground, background, self.cache)

    def score(
        self,
        images: Sequence[Image.Image],
        memories: Sequence[ClassMemory],
        *,
        contrast: Sequence[str],
        synonyms: Synonyms | None,
        mirror: bool,
        batch_size: int,
    ) -> list[Scored]:
        """Scores images; those of one input size are encoded together."""
        texts = self._contrast_texts(contrast, synonyms)
        results: dict[int, Scored] = {}
        for indices, size in self._batches(images, batch_size):
            batch = [images[i] for i in indices]
            scored = self._scored(batch, size, list(memories), texts, mirror)
            results.update(zip(indices, scored, strict=True))
        return [results[index] for index in range(len(images))]

    def identity(self) -> dict[str, Any]:
        """The CLIP's name, its revision if one was asked for, and the width of its vectors."""
        encoder = self.encoder
        revision = {} if encoder.revision is None else {"revision": encoder.revision}
        return {"model": encoder.source, **revision, "width": encoder.embed_dim}

    def fingerprint(self) -> str:
        """That of the CLIP's weights."""
        return weights_hash(self.encoder.model)

    def tensors(self, memory: ClassMemory) -> dict[str, Tensor]:
        """The memory's fields."""
        return {field: getattr(memory, field) for field in _TENSOR_FIELDS}

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> ClassMemory:
        """The memory of these fields, on the CLIP's device."""
        device = self.encoder.device
        parts = {field: tensors[field].to(device) for field in _TENSOR_FIELDS}
        return ClassMemory(name=name, **parts)

    def _contrast_texts(self, names: Sequence[str], synonyms: Synonyms | None) -> Tensor | None:
        if not names:
            return None
        texts = text_prototypes(self.encoder.encode_text, list(names), synonyms)
        return torch.cat(texts).to(self.encoder.device)

    def _batches(
        self, images: Sequence[Image.Image], batch_size: int
    ) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Indices of images that share an input size, at most ``batch_size`` at a time."""
        groups: dict[tuple[int, int], list[int]] = {}
        encoder = self.encoder
        for index, image in enumerate(images):
            size = fit_size(
                image.height, image.width, image_size=encoder.image_size, patch=encoder.patch_size
            )
            groups.setdefault(size, []).append(index)
        for size, indices in groups.items():
            for start in range(0, len(indices), batch_size):
                yield indices[start : start + batch_size], size

    @torch.inference_mode()
    def _scored(
        self,
        images: Sequence[Image.Image],
        size: tuple[int, int],
        memories: list[ClassMemory],
        contrast: Tensor | None,
        mirror: bool,
    ) -> Iterator[Scored]:
        encoder, settings = self.encoder, self.encoder.settings
        pixels = torch.stack([to_pixels(i, size, settings.mean, settings.std) for i in images])
        seen = torch.cat([pixels, pixels.flip(-1)]) if mirror else pixels
        encoding = encoder.encode(seen)
        transition = transition_matrix(encoding.attention)
        evidence = gather_evidence(
            encoding,
            memories,
            logit_scale=encoder.logit_scale,
            contrast=contrast,
            transition=transition,
        )
        fused = fuse_classes(evidence, memories, transition)
        if mirror:
            direct, reflected = fused.chunk(2)
            fused = (direct + reflected.flip(-1)) / 2
        colours = _unit_colours(pixels, settings.mean, settings.std).to(encoder.device)
        scores = edge_aware_upsample(fused, colours)
        for index, image in enumerate(images):
            own = F.interpolate(
                scores[index, None],
                size=(image.height, image.width),
                mode="bilinear",
                align_corners=False,
            )
            yield Scored(own[0].clamp(0, 1).cpu().numpy(), _priors(evidence, fused, index))


def _unit_colours(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pixels back in [0, 1]."""
    shape = (3, 1, 1)
    return pixels * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)


def _priors(evidence: Sequence[Evidence], fused: Tensor, index: int) -> Priors:
    def array(maps: Tensor) -> NDArray[np.float32]:
        return maps.clamp(0, 1).float().cpu().numpy()

    def stack(field: str) -> NDArray[np.float32]:
        return array(torch.stack([getattr(item, field)[index] for item in evidence]))

    return Priors(
        visual_text=stack("visual_text"),
        visual_text_refined=stack("visual_text_refined"),
        visual_visual=stack("visual_visual"),
        visual_visual_refined=stack("visual_visual_refined"),
        fused=array(fused[index]),
    )
