"""A trained decoder with what belongs to it: how it sees images, and the CLIP of its priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from piclip.clip.cache import Cache
from piclip.clip.devices import usable_device
from piclip.clip.encoder import Encoder
from piclip.clip.features import Picture, QueryFeatures, SupportFeatures
from piclip.clip.prompts import Synonyms
from piclip.decoders.backbones import resize
from piclip.decoders.base import EpisodeFeatures, Features, FewShotDecoder
from piclip.decoders.clip_priors import ClassTexts, PriorMaker
from piclip.decoders.networks import load_decoder
from piclip.decoders.plain_images import shrunk, shrunk_mask
from piclip.decoders.saved import Checkpoint
from piclip.decoders.views import View, normalise, whole_view
from piclip.errors import ModelError, UsageError

if TYPE_CHECKING:
    from typing import Unpack

    from piclip.clip.hub import HubOptions

SIZE = 473
"""Side in pixels of what a decoder sees, where no recipe says otherwise: the benchmarks'."""

_AT_ONCE = 16  # supports that go through the backbone together


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """One query, as decoder and CLIP see it.

    Attributes:
        view: Where the decoder's pixels lie in the image.
        maps: Of the backbone, (1, C, h, w) each.
        clip: What the priors need; None for a decoder without CLIP.
    """

    view: View
    maps: Features
    clip: QueryFeatures | None


@dataclass(frozen=True, eq=False)
class EncodedSupports:
    """The K supports of one class, as decoder and CLIP see them.

    Attributes:
        images: In [0, 1], (K, 3, S, S).
        masks: 1 object, 0 background, 255 outside the image or to be ignored, uint8 (K, S, S).
        maps: Of the backbone, (K, C, h, w) each, on the decoder's device.
        objects: What the priors need, K; empty for a decoder without CLIP.
    """

    images: Tensor
    masks: Tensor
    maps: Features
    objects: tuple[SupportFeatures, ...]


class TrainedDecoder:
    """Scores queries; images are shown whole, the longer side at the decoder's size.

    Args:
        decoder: The decoder; it is set to evaluation mode.
        maker: The CLIP priors; needed exactly where the decoder takes them.
        size: Side S in pixels of what the decoder sees.
        sees: Whether CLIP looks at the padded view ("augmented") or at the plain image.
        device: Where the decoder runs.

    Raises:
        UsageError: The decoder needs priors and there is no maker.
    """

    def __init__(
        self,
        decoder: FewShotDecoder,
        maker: PriorMaker | None = None,
        *,
        size: int = SIZE,
        sees: str = "augmented",
        device: str | torch.device = "cpu",
    ) -> None:
        if decoder.prior == "piclip" and maker is None:
            raise UsageError("This decoder takes the priors of CLIP; give it a PriorMaker.")
        self.device = torch.device(device)
        self.decoder = decoder.to(self.device).eval()
        self.maker = maker if decoder.prior == "piclip" else None
        self.size, self.sees = size, sees

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        synonyms: Synonyms | None = None,
        *,
        clip: str | Encoder | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        cache: Cache | None = None,
        **hub: Unpack[HubOptions],
    ) -> TrainedDecoder:
        """Reads a checkpoint and the CLIP that its recipe names.

        Args:
            checkpoint: Where it is.
            synonyms: What classes are called in the prompts, by name.
            clip: Another CLIP than the recipe's, or one in memory; must be given where there is no
                recipe.
            device: "auto" (CUDA, else the CPU) or a torch device.
            dtype: Of the CLIP; by default the recipe's.
            cache: Keeps CLIP's features of images that come back.
            hub: Where a CLIP on the hub is, as in `FewShotSegmenter.from_pretrained`.

        Raises:
            ModelError: Decoder, its recipe or CLIP cannot be read.
            UsageError: No CLIP is known, or the device cannot be used.
        """
        decoder = load_decoder(checkpoint.folder)
        size = checkpoint.value("augmentation", "size", default=SIZE)
        model = checkpoint.value("clip", "model", default="")
        if type(size) is not int or size < 1 or not isinstance(model, str):
            raise ModelError(
                f"The recipe with {checkpoint.folder} has the size {size!r} and the CLIP "
                f"{model!r}, where a number of pixels and a name belong; copy it or train again."
            )
        if str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = usable_device(device)
        maker = None
        if decoder.prior == "piclip":
            source = clip or model
            if not source:
                raise UsageError(
                    f"No recipe with {checkpoint.folder} names the CLIP whose priors its decoder "
                    f"takes; say which (clip= in Python, --clip for piclip segment, annotate, app "
                    f"and label-studio, --model for piclip evaluate)."
                )
            if not isinstance(source, Encoder):
                kind = dtype or checkpoint.value("clip", "dtype", default="auto")
                source = Encoder.from_pretrained(source, device=place, dtype=kind, **hub)
            maker = PriorMaker(
                source,
                synonyms,
                text=checkpoint.value("clip", "text", default="refined"),
                visual=checkpoint.value("clip", "visual", default=decoder.published_visual),
                cache=cache,
            )
        return cls(
            decoder,
            maker,
            size=size,
            sees=checkpoint.value("clip", "sees", default="augmented"),
            device=place,
        )

    def to(self, device: str | torch.device) -> None:
        """Moves decoder and CLIP, in place; UsageError where there is no such device."""
        self.device = usable_device(device)
        self.decoder.to(self.device)
        if self.maker is not None:
            self.maker.encoder.to(self.device)

    @torch.inference_mode()
    def encode_queries(self, images: Sequence[NDArray[np.uint8]]) -> list[EncodedQuery]:
        """Encodes queries, RGB (H, W, 3) of any sizes, all at once."""
        views = [whole_view(*_size(image), self.size) for image in images]
        seen = [view.image(image) for view, image in zip(views, images, strict=True)]
        maps = self.decoder.query_features(normalise(torch.stack(seen).to(self.device)))
        clip: Sequence[QueryFeatures | None] = [None] * len(images)
        if self.maker is not None:
            plain = [shrunk(image) for image in images] if self.sees == "plain" else seen
            clip = self.maker.features(plain)
        return [
            EncodedQuery(view, maps.rows(slice(index, index + 1)), clip[index])
            for index, view in enumerate(views)
        ]

    @torch.inference_mode()
    def encode_supports(
        self, supports: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    ) -> EncodedSupports:
        """Encodes the supports of a class.

        An object that falls between the decoder's pixels is put on those it touches.

        Args:
            supports: RGB (H, W, 3) and labels (H, W): 1 object, 0 background, 255 to be ignored.
        """
        views = [whole_view(*_size(image), self.size) for image, _ in supports]
        pairs = list(zip(views, supports, strict=True))
        images = torch.stack([view.image(image) for view, (image, _) in pairs])
        masks = torch.stack([_labels(view, labels) for view, (_, labels) in pairs])
        objects: Sequence[SupportFeatures] = ()
        if self.maker is not None:
            pictures: list[Picture] = list(images)
            inside = [(mask == 1).numpy() for mask in masks]
            if self.sees == "plain":
                pictures = [shrunk(image) for image, _ in supports]
                inside = [shrunk_mask(labels == 1) for _, labels in supports]
            objects = self.maker.support_features(pictures, inside)
        return self.recall(images, masks, objects)

    def recall(
        self, images: Tensor, masks: Tensor, objects: Sequence[SupportFeatures]
    ) -> EncodedSupports:
        """Supports that were seen before, from what was kept of them."""
        return EncodedSupports(images, masks, self._maps(images, masks), tuple(objects))

    @torch.inference_mode()
    def logits(
        self,
        queries: Sequence[EncodedQuery],
        supports: Sequence[EncodedSupports],
        texts: Sequence[ClassTexts] = (),
        contrast: Sequence[Sequence[ClassTexts]] = (),
    ) -> Tensor:
        """Scores of background and object in the views of B queries.

        Args:
            queries: The queries.
            supports: Those of each; the same number K everywhere.
            texts: The class of each; read by a decoder with CLIP alone, like the contrast.
            contrast: Further classes that join each softmax over texts.

        Returns:
            float32 (B, 2, S, S) on the CPU.
        """
        priors = None
        if self.maker is not None:
            clip = [query.clip for query in queries if query.clip is not None]
            objects = [shown.objects for shown in supports]
            maps = list(map(self.maker.maps, clip, objects, texts, contrast))
            if self.sees == "plain":
                maps = [query.view.maps(own) for query, own in zip(queries, maps, strict=True)]
            priors = torch.stack(maps).to(self.device)
        episodes = EpisodeFeatures(
            Features.stacked([query.maps for query in queries]),
            Features.stacked([shown.maps for shown in supports]),
            torch.stack([shown.masks for shown in supports]).to(self.device),
            priors,
        )
        output = self.decoder.decode(episodes)
        return resize(output.logits, (self.size, self.size)).float().cpu()

    @torch.inference_mode()
    def _maps(self, images: Tensor, masks: Tensor) -> Features:
        parts = [
            self.decoder.support_features(
                normalise(some.to(self.device))[None], inside.to(self.device)[None]
            )
            for some, inside in zip(images.split(_AT_ONCE), masks.split(_AT_ONCE), strict=True)
        ]
        return Features.stacked(parts)


def _size(image: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = image.shape[:2]
    return height, width


def _labels(view: View, labels: NDArray[np.uint8]) -> Tensor:
    seen = view.labels(labels)
    if not bool((seen == 1).any()):
        seen[view.touched(labels == 1)] = 1
    return seen
