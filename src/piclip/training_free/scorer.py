"""Scores without training: a frozen ViT compares with the supports, a frozen CLIP reads names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, content_key, weights_hash
from piclip.clip.encoder import Encoder
from piclip.clip.prompts import Synonyms
from piclip.clip.towers import VisualTower, holds_text_tower
from piclip.errors import UsageError
from piclip.io.supports import Labelled
from piclip.results import Priors
from piclip.scorer import Scored
from piclip.training_free.contrast import ContrastEvidence
from piclip.training_free.evidence import Answer, ClassMemory
from piclip.training_free.published import PublishedEvidence
from piclip.training_free.vision import Vision

if TYPE_CHECKING:
    from typing import Self, Unpack

    from piclip.clip.hub import HubOptions

EvidenceName = Literal["contrast", "published"]

_TENSOR_FIELDS = tuple(field.name for field in fields(ClassMemory) if field.name != "name")
_WHOLE, _FLOATS = {torch.int64}, {torch.float32, torch.bfloat16, torch.float16}


class TrainingFreeScorer:
    """The training-free scorer; see `piclip.scorer.Scorer` for its methods.

    Args:
        encoder: The frozen CLIP that reads names; None where names are labels and no more.
        visual: Another image tower whose tokens are compared; by default those of the CLIP are.
        evidence: "contrast", object against background of whole supports with the name beside it,
            or "published", PI-CLIP's priors as they are.
        cache: Keeps what these models make of supports, so that a class that is fitted again with
            one support more encodes that one alone.

    Raises:
        UsageError: An unknown evidence, no model at all, or published priors without a CLIP or
            with another tower.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        visual: VisualTower | None = None,
        *,
        evidence: EvidenceName = "contrast",
        cache: Cache | None = None,
    ) -> None:
        self.models = [model for model in (encoder, visual) if model is not None]
        if not self.models:
            raise UsageError("A training-free segmenter needs a CLIP, another ViT, or both.")
        self.encoder, self.visual, self.evidence_name = encoder, visual, evidence
        self.vision = Vision(self.models[-1], encoder, cache)
        if evidence == "contrast":
            self.evidence: ContrastEvidence | PublishedEvidence = ContrastEvidence(self.vision)
        elif evidence == "published" and encoder is not None and visual is None:
            self.evidence = PublishedEvidence(encoder)
        elif evidence == "published":
            raise UsageError(
                "The published priors are those of a CLIP alone; leave visual out, or take "
                "evidence='contrast'."
            )
        else:
            raise UsageError(f"The evidence must be 'contrast' or 'published', not {evidence!r}.")

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        visual: str | Path | None = None,
        evidence: EvidenceName = "contrast",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Loads the models; arguments and errors are those of `FewShotSegmenter.from_pretrained`.

        A revision is that of ``name_or_folder``.
        """
        load_tower = partial(VisualTower.from_pretrained, device=device, dtype=dtype)
        if not holds_text_tower(name_or_folder, **hub):
            if visual is not None:
                raise UsageError(
                    f"{name_or_folder} reads no names; give a CLIP beside visual, or leave visual "
                    f"out."
                )
            return cls(None, load_tower(name_or_folder, **hub), evidence=evidence)
        encoder = Encoder.from_pretrained(name_or_folder, device=device, dtype=dtype, **hub)
        hub["revision"] = None
        tower = None if visual is None else load_tower(visual, **hub)
        return cls(encoder, tower, evidence=evidence)

    @property
    def threshold(self) -> float:
        """What the model whose tokens are compared is set to; 0.5 for the published priors."""
        return 0.5 if self.evidence_name == "published" else self.vision.settings.threshold

    @property
    def device(self) -> torch.device:
        """The models'."""
        return self.vision.tower.device

    @property
    def dtype(self) -> torch.dtype:
        """The models'."""
        return self.vision.tower.dtype

    @property
    def takes_negatives(self) -> bool:
        """Not for the published priors."""
        return self.evidence_name == "contrast"

    def to(self, device: str | torch.device) -> None:
        """Moves the models."""
        for model in self.models:
            model.to(device)

    def fit(
        self,
        name: str,
        supports: Iterable[Labelled],
        *,
        negatives: Iterable[Image.Image],
        synonyms: Synonyms | None,
    ) -> ClassMemory:
        """Encodes the supports once; their masks also say how far the name is believed."""
        texts = self.vision.texts([name], synonyms)[0]
        return self.evidence.learn(name, supports, texts, negatives)

    def score(
        self,
        images: Sequence[Image.Image],
        memories: Sequence[ClassMemory],
        *,
        contrast: Sequence[str],
        synonyms: Synonyms | None,
        mirror: bool,
    ) -> list[Scored]:
        """Scores images; those of one input size are encoded together."""
        texts = self.vision.texts(contrast, synonyms)[:, 0] if contrast else None
        together: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for index, image in enumerate(images):
            together.setdefault(self.vision.sizes(image), []).append(index)
        results: dict[int, Scored] = {}
        for indices in together.values():
            scored = self._scored([images[index] for index in indices], memories, texts, mirror)
            results.update(zip(indices, scored, strict=True))
        return [results[index] for index in range(len(images))]

    def identity(self) -> dict[str, Any]:
        """The models' names, a revision if one was asked for, the evidence and a token's width."""
        said: dict[str, Any] = {"evidence": self.evidence_name, "width": self.vision.tower.width}
        main, *others = self.models
        said["model"] = main.source
        if main.revision is not None:
            said["revision"] = main.revision
        if others:
            said["visual"] = others[0].source
        return said

    def fingerprint(self) -> str:
        """That of the models' weights."""
        return content_key(self.evidence_name, *(weights_hash(m.model) for m in self.models))

    def tensors(self, memory: ClassMemory) -> dict[str, Tensor]:
        """The memory's fields."""
        return {field: getattr(memory, field) for field in _TENSOR_FIELDS}

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> ClassMemory:
        """The memory of these fields, on the models' device.

        Raises:
            ValueError: A field has another shape or type than it says, or numbers that are not
                finite.
        """
        blocks, patches, _ = tensors["tokens"].shape
        shapes: dict[str, tuple[int, ...]]
        shapes = {"spreads": (blocks,), "coverage": (patches,), "owner": (patches,)}
        shapes.update((field, ()) for field in ("count", "agreement", "named", "level"))
        if any(tensors[field].shape != shape for field, shape in shapes.items()):
            raise ValueError(f"The fields of {name} do not have the shapes {shapes}")
        for field in _TENSOR_FIELDS:
            if tensors[field].dtype not in (_WHOLE if field in ("count", "owner") else _FLOATS):
                raise ValueError(f"{field} of {name} is of type {tensors[field].dtype}")
        if not all(tensors[field].isfinite().all() for field in _TENSOR_FIELDS):
            raise ValueError(f"The fields of {name} are not all finite numbers")
        parts = {field: tensors[field].to(self.device) for field in _TENSOR_FIELDS}
        return ClassMemory(name=name, **parts)

    @torch.inference_mode()
    def _scored(
        self,
        images: Sequence[Image.Image],
        memories: Sequence[ClassMemory],
        contrast: Tensor | None,
        mirror: bool,
    ) -> Iterator[Scored]:
        answer = self.evidence.answer(self.vision.see(images), memories, contrast)
        values, presence = answer.values, answer.presence
        if mirror:
            mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
            other = self.evidence.answer(self.vision.see(mirrored), memories, contrast)
            values = (values + other.values.flip(-1)) / 2
            if presence is not None and other.presence is not None:
                presence = (presence + other.presence) / 2
        for index, image in enumerate(images):
            there = None if presence is None else presence[index]
            yield Scored(
                self.evidence.enlarge(values[index].float(), there, image),
                _priors(answer, index),
                None if there is None else _array(there),
            )


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.float().cpu().numpy())


def _priors(answer: Answer, index: int) -> Priors:
    return Priors(**{name: _array(maps[index].clamp(0, 1)) for name, maps in answer.maps.items()})
