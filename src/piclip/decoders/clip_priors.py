"""The two maps that decoders take from CLIP, episode by episode.

For a query and its K supports of a class: the refined visual-text prior and the visual-visual
prior, ``P_vv = min_max(mean over shots and over the last two blocks of max_j cos)``, or for HDMNet
the mean alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal, NamedTuple, get_args

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


class PriorMaker(FeatureMaker):
    """Makes the decoders' priors with a frozen CLIP; nothing here has a gradient.

    Args:
        encoder: The frozen CLIP.
        synonyms: What classes are called in the prompts, by name; a class that is not there is
            called by its name.
        templates: Foreground and background templates, each one sentence with ``{}`` or several.
        text: Which visual-text map fills the first channel.
        visual: Which visual-visual map fills the second channel; "refined" is its square after
            PIR, as in `piclip.training_free.published`; "raw" is the mean of the cosines, in
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
        super().__init__(encoder, cache)
        self.synonyms, self.templates = synonyms or {}, templates
        self.text, self.visual = text, visual
        self._texts: dict[str, ClassTexts] = {}

    def texts(self, name: str, synonyms: Synonyms | None = None) -> ClassTexts:
        """The text vectors of a class, made once for the maker's own wordings.

        Others, by class name, come before these.
        """
        if synonyms and name in synonyms:
            return self._encoded_texts(name, synonyms)
        if name not in self._texts:
            self._texts[name] = self._encoded_texts(name, self.synonyms)
        return self._texts[name]

    @torch.inference_mode()
    def maps(
        self,
        query: QueryFeatures,
        supports: Sequence[SupportFeatures],
        texts: ClassTexts,
        contrast: Sequence[ClassTexts] = (),
    ) -> Tensor:
        """The priors of an episode that is encoded already, float32 (2, h, w).

        They are text and visual on the query's grid and the encoder's device, in [0, 1], but a raw
        visual prior in [-1, 1]. The K supports are of any grids; the classes of ``contrast``
        join the softmax over texts.
        """
        encoding = self.encoder.resume(query.tokens[None], query.attention[None], query.grid)
        text = self._text_map(encoding, texts, contrast)
        return torch.cat([text, self._visual_map(encoding, supports)], dim=1)[0]

    def episode_priors(
        self,
        queries: Sequence[Picture],
        supports: Sequence[Sequence[Picture]],
        masks: Sequence[Sequence[Mask]],
        names: Sequence[str],
        contrast: Sequence[Sequence[str]] | None = None,
    ) -> list[Tensor]:
        """The priors of B episodes by the names of their classes, as tensors training may save.

        Queries and supports are of any sizes; K may differ between episodes. The prompts of the
        names in an episode's contrast join its softmax over texts (candidates "oracle": what else
        the truth of the query shows; only to compare with published numbers). By default there are
        the target's own two prompts alone.
        """
        shown = iter(
            self.support_features(
                [image for shots in supports for image in shots],
                [mask for shots in masks for mask in shots],
            )
        )
        found = []
        for query, shots, name, others in zip(
            self.features(queries), supports, names, contrast or [()] * len(names), strict=True
        ):
            rivals = [self.texts(other) for other in others if other != name]
            maps = self.maps(query, list(islice(shown, len(shots))), self.texts(name), rivals)
            found.append(maps.clone())  # an ordinary tensor: backward passes take no others
        return found

    def _text_map(
        self, encoding: Encoding, texts: ClassTexts, contrast: Sequence[ClassTexts]
    ) -> Tensor:
        """(1, 1, h, w), kept by what it is made of."""
        if self.text == "none":
            return torch.zeros(1, 1, *encoding.grid, device=encoding.last.device)
        key = ""
        rivals = [vector for class_texts in contrast for vector in class_texts]
        if self.cache is not None:
            read = (encoding.last_input[0], encoding.attention[0], *texts, *rivals)
            key = content_key("text map", self.text, self.model_hash, *read)
            if (kept := self.cache.get(key)) is not None:
                return kept["map"].to(encoding.last.device)
        text = visual_text_prior(
            encoding.last_block,
            texts.foreground[None],
            texts.background[None],
            logit_scale=encoding.logit_scale,
            grid=encoding.grid,
            contrast=torch.stack(rivals) if rivals else None,
        )
        if self.text == "refined":
            text = refine_prior(text, encoding.attention)
        if self.cache is not None:
            self.cache.put(key, {"map": text})
        return text

    def _visual_map(self, encoding: Encoding, supports: Sequence[SupportFeatures]) -> Tensor:
        """(1, 1, h, w)."""
        last, previous = encoding.last, encoding.previous
        if self.visual == "none":
            return torch.zeros(1, 1, *encoding.grid, device=last.device)
        *objects, valid = (part.to(last.device) for part in pad_objects(supports))
        cosines = mean_cosines((last, previous), objects, valid)
        mean: Tensor = cosines[None].unflatten(2, encoding.grid)
        if self.visual == "raw":
            return mean
        visual = min_max(mean)
        # Squaring sharpens the flat map of cosines before it is spread along the attention.
        return refine_prior(visual**2, encoding.attention) if self.visual == "refined" else visual

    def _encoded_texts(self, name: str, synonyms: Synonyms) -> ClassTexts:
        foreground, background = text_prototypes(
            self.encoder.encode_text,
            [name],
            synonyms,
            foreground_templates=self.templates[0],
            background_templates=self.templates[1],
        )
        return ClassTexts(foreground[0], background[0])
