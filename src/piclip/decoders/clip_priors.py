"""The two maps that decoders take from CLIP, for whole batches of episodes.

For a query and its K supports of a class: the refined visual-text prior and the visual-visual
prior, ``P_vv = min_max(mean over shots and over the last two blocks of max_j cos)``, or for HDMNet
the mean alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from piclip.clip.cache import Cache, content_key
from piclip.clip.encoder import Encoder, Encoding
from piclip.clip.features import (
    FeatureMaker,
    Mask,
    Picture,
    QueryFeatures,
    SupportFeatures,
    pad_objects,
)
from piclip.clip.prompts import BACKGROUND, FOREGROUND, Synonyms, text_prototypes
from piclip.clip.vit import LastBlock
from piclip.errors import UsageError
from piclip.priors import mean_cosines, min_max, refine_prior, visual_text_prior

MapKind = Literal["none", "plain", "refined"]
"""A prior left out (zeros), as it is, or after PIR."""

VisualKind = Literal["none", "plain", "refined", "raw"]
"""The same of the visual prior, or "raw": its cosines, unscaled, as published HDMNet takes them."""


class ClassTexts(NamedTuple):
    """The text vectors of a class and of its absence, (E,) each."""

    foreground: Tensor
    background: Tensor


class PriorMaker:
    """Makes the decoders' priors with a frozen CLIP; nothing here has a gradient.

    Args:
        encoder: The frozen CLIP.
        synonyms: What classes are called in the prompts, by name; a class that is not there is
            called by its name.
        templates: Foreground and background templates, each one sentence with ``{}`` or several.
        text: Which visual-text map fills the first channel.
        visual: Which visual-visual map fills the second channel; "refined" is its square after
            PIR, as in `piclip.training_free.evidence`; "raw" is the mean of the cosines, in
            [-1, 1].
        cache: Keeps the features of images that come back unchanged.

    Raises:
        UsageError: A kind of map that there is not, or not for this channel.
    """

    def __init__(
        self,
        encoder: Encoder,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        templates: tuple[str | Sequence[str], str | Sequence[str]] = (FOREGROUND, BACKGROUND),
        *,
        text: MapKind = "refined",
        visual: VisualKind = "plain",
        cache: Cache | None = None,
    ) -> None:
        for channel, kind, kinds in (("text", text, MapKind), ("visual", visual, VisualKind)):
            if kind not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise UsageError(f"The {channel} prior is one of {known}, not {kind!r}.")
        self.encoder, self.synonyms, self.templates = encoder, synonyms or {}, templates
        self.text, self.visual = text, visual
        self._maker = FeatureMaker(encoder, cache)
        self._texts: dict[str, ClassTexts] = {}

    def features(self, images: Sequence[Picture]) -> list[QueryFeatures]:
        """Encodes queries, each once; see `FeatureMaker.features`."""
        return self._maker.features(images)

    def support_features(
        self, images: Sequence[Picture], masks: Sequence[Mask]
    ) -> list[SupportFeatures]:
        """Encodes supports, masked in image space; see `FeatureMaker.support_features`."""
        return self._maker.support_features(images, masks)

    def texts(self, name: str, synonyms: Synonyms | None = None) -> ClassTexts:
        """The text vectors of a class; made once, unless it is given other words.

        Args:
            name: The class.
            synonyms: Wordings by class name that come before the maker's own.
        """
        if synonyms and name in synonyms:
            return self._encoded(name, synonyms)
        if name not in self._texts:
            self._texts[name] = self._encoded(name, self.synonyms)
        return self._texts[name]

    def maps(
        self,
        queries: Sequence[QueryFeatures],
        supports: Sequence[Sequence[SupportFeatures]],
        texts: Sequence[ClassTexts],
        contrast: Sequence[Sequence[ClassTexts]],
    ) -> Tensor:
        """The priors of B episodes that are encoded already.

        Args:
            queries: B queries of one grid (h, w).
            supports: The K supports of each, of any grids; K may differ between episodes.
            texts: The class of each.
            contrast: Further classes that join each episode's softmax over texts.

        Returns:
            float32 (B, 2, h, w) on the encoder's device: text, visual; in [0, 1], but a raw
            visual prior in [-1, 1].

        Raises:
            UsageError: Lists of different lengths, or queries of several grids.
        """
        grids = {query.grid for query in queries}
        if len(grids) != 1 or not len(queries) == len(supports) == len(texts) == len(contrast):
            raise UsageError(
                f"Priors are made for queries of one grid with one name and one list of supports "
                f"each, but there are {len(queries)} queries of the grids {sorted(grids)}, "
                f"{len(texts)} names and {len(supports)} lists of supports."
            )
        with torch.inference_mode():
            encoding = self.encoder.resume(
                torch.stack([query.tokens for query in queries]),
                torch.stack([query.attention for query in queries]),
                grids.pop(),
            )
            text = self._text_maps(encoding, texts, contrast)
            visual = self._visual_map(encoding, supports)
            maps = torch.cat([text, visual], dim=1)
        return maps.clone()  # an ordinary tensor, which training may save for its backward pass

    def episode_priors(
        self,
        queries: Sequence[Picture],
        supports: Sequence[Sequence[Picture]],
        masks: Sequence[Sequence[Mask]],
        names: Sequence[str],
        contrast: Sequence[Sequence[str]] | None = None,
    ) -> Tensor:
        """The priors of B episodes whose classes are given by name.

        Args:
            queries: B queries of one size.
            supports: The K supports of each, of any sizes; K may differ between episodes.
            masks: Masks of the supports.
            names: The class of each.
            contrast: Names of further classes whose prompts join each episode's softmax over texts
                (candidates "oracle": what else the truth of the query shows; only to compare
                with published numbers). By default the target's own two prompts alone.

        Returns:
            As `maps`.

        Raises:
            UsageError: Lists of different lengths, or queries of several grids.
        """
        flat = self.support_features(
            [image for shots in supports for image in shots],
            [mask for shots in masks for mask in shots],
        )
        ends = np.cumsum([len(shots) for shots in supports])
        grouped = [flat[end - len(s) : end] for end, s in zip(ends, supports, strict=True)]
        texts = [self.texts(name) for name in names]
        others = [
            [self.texts(other) for other in others_of if other != name]
            for name, others_of in zip(names, contrast or [()] * len(names), strict=True)
        ]
        return self.maps(self.features(queries), grouped, texts, others)

    def _text_maps(
        self,
        encoding: Encoding,
        texts: Sequence[ClassTexts],
        contrast: Sequence[Sequence[ClassTexts]],
    ) -> Tensor:
        if self.text == "none":
            return torch.zeros(len(texts), 1, *encoding.grid, device=encoding.last.device)
        cache, maps = self._maker.cache, []
        for index, (own, others) in enumerate(zip(texts, contrast, strict=True)):
            key = ""
            if cache is not None:
                vectors = (vector for class_texts in (own, *others) for vector in class_texts)
                read = (encoding.last_input[index], encoding.attention[index])
                key = content_key("text map", self.text, self._maker.model_hash, *read, *vectors)
                if (kept := cache.get(key)) is not None:
                    maps.append(kept["map"].to(encoding.last.device))
                    continue
            maps.append(self._text_map(encoding, index, own, others))
            if cache is not None:
                cache.put(key, {"map": maps[-1]})
        return torch.cat(maps)

    def _text_map(
        self, encoding: Encoding, index: int, texts: ClassTexts, contrast: Sequence[ClassTexts]
    ) -> Tensor:
        """That of one image, (1, 1, h, w)."""
        vectors = [vector for class_texts in contrast for vector in class_texts]
        text = visual_text_prior(
            _one_image(encoding.last_block, index),
            texts.foreground[None],
            texts.background[None],
            logit_scale=encoding.logit_scale,
            grid=encoding.grid,
            contrast=torch.stack(vectors) if vectors else None,
        )
        return refine_prior(text, encoding.attention[[index]]) if self.text == "refined" else text

    def _visual_map(
        self, encoding: Encoding, supports: Sequence[Sequence[SupportFeatures]]
    ) -> Tensor:
        last, previous = encoding.last, encoding.previous
        if self.visual == "none":
            return torch.zeros(len(last), 1, *encoding.grid, device=last.device)
        maps = []
        for index, shots in enumerate(supports):
            *objects, valid = (part.to(last.device) for part in pad_objects(shots))
            maps.append(mean_cosines((last[[index]], previous[[index]]), objects, valid))
        mean: Tensor = torch.stack(maps).unflatten(2, encoding.grid)
        if self.visual == "raw":
            return mean
        visual = min_max(mean)
        # Squaring sharpens the flat map of cosines before it is spread along the attention.
        return refine_prior(visual**2, encoding.attention) if self.visual == "refined" else visual

    def _encoded(self, name: str, synonyms: Synonyms) -> ClassTexts:
        foreground, background = text_prototypes(
            self.encoder.encode_text,
            [name],
            synonyms,
            foreground_templates=self.templates[0],
            background_templates=self.templates[1],
        )
        return ClassTexts(foreground[0], background[0])


def _one_image(block: LastBlock, index: int) -> LastBlock:
    fields = ("normed", "query", "key", "value", "attended", "mid", "hidden", "output")
    return replace(block, **{field: getattr(block, field)[index, None] for field in fields})
