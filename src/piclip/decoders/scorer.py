"""Scores by a trained decoder: the probability of the object, class by class, pixel by pixel.

The decoder sees images whole, the longer side at its own size.

With scores ``l_0`` of background and ``l_1`` of the object, laid over the image's own pixels, the
probability of a class is ``sigmoid(l_1 - l_0)``. Each class is asked on its own, as in training;
the likeliest one takes a pixel if it is likelier than the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, content_key, weights_hash
from piclip.clip.devices import usable_device
from piclip.clip.encoder import Encoder
from piclip.clip.features import Mask, Picture, QueryFeatures, SupportFeatures
from piclip.clip.prompts import Synonyms
from piclip.decoders.backbones import resize
from piclip.decoders.base import EpisodeFeatures, Features, FewShotDecoder
from piclip.decoders.clip_priors import ClassTexts, PriorMaker
from piclip.decoders.networks import load_decoder
from piclip.decoders.saved import Checkpoint
from piclip.decoders.views import (
    View,
    laid_back,
    normalise,
    shrunk,
    shrunk_mask,
    whole_view,
)
from piclip.errors import ModelError, UsageError
from piclip.io.supports import Labelled
from piclip.scorer import Scored

if TYPE_CHECKING:
    from typing import Unpack

    from piclip.clip.hub import HubOptions

SIZE = 473
"""Side in pixels of what a decoder sees, where no recipe says otherwise: the benchmarks'."""

_AT_ONCE = 16  # supports that go through the backbone together


class EncodedQuery(NamedTuple):
    """One query, as decoder and CLIP see it."""

    view: View  # where the decoder's pixels lie in the image
    maps: Features  # of the backbone, (1, C, h, w) each
    clip: QueryFeatures | None  # what the priors need; None for a decoder without CLIP


@dataclass(frozen=True, eq=False)
class DecoderMemory:
    """All that is kept of the K supports of one class, so that they are looked at only once.

    For a ResNet-50 at 473 pixels about 20 MB a support, 50 MB with the ImageNet prior.
    """

    name: str
    images: Tensor  # in [0, 1], (K, 3, S, S)
    masks: Tensor  # 1 object, 0 background, 255 outside the image, uint8 (K, S, S)
    maps: Features  # of the backbone, (K, C, h, w) each, on the decoder's device
    objects: tuple[SupportFeatures, ...]  # what the priors need, K; empty without CLIP
    texts: ClassTexts | None  # None without CLIP

    @property
    def shots(self) -> int:
        """Number of supports K."""
        return len(self.images)


@dataclass(frozen=True, eq=False)
class LaidBackScores:
    """Probabilities at the size of an image, laid over it class by class when they are asked for.

    Attributes:
        views: Log-odds of the classes in a decoder's view of the image, (C, S, S), on the CPU; the
            second, if there is one, is of the image in a mirror. Their probabilities are averaged.
        size: (height, width) of the image.
    """

    views: tuple[Tensor, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if not all(view.isfinite().all() for view in self.views):
            raise UsageError("The decoder gave scores that are no numbers; take dtype='float32'.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.views[0]), *self.size

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """The scores of a class, (H, W) in [0, 1]."""
        scores = [laid_back(view[index][None], self.size)[0].sigmoid_() for view in self.views]
        if len(scores) == 1:
            return np.asarray(scores[0].numpy())
        return np.asarray(((scores[0] + scores[1].flip(-1)) / 2).numpy())


class DecoderScorer:
    """The scorer of a trained decoder; see `piclip.scorer.Scorer` for its methods.

    Args:
        decoder: The decoder; it is set to evaluation mode.
        maker: The CLIP priors; needed exactly where the decoder takes them.
        size: Side S in pixels of what the decoder sees.
        sees: Whether CLIP looks at the padded view ("augmented") or at the plain image.
        device: Where the decoder runs.
        identity: What `identity` returns; for a decoder that was read from a folder.

    Raises:
        UsageError: The decoder needs priors and there is no maker.
    """

    threshold = 0.5
    takes_negatives = False

    def __init__(
        self,
        decoder: FewShotDecoder,
        maker: PriorMaker | None = None,
        *,
        size: int = SIZE,
        sees: str = "augmented",
        device: str | torch.device = "cpu",
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if decoder.prior == "piclip" and maker is None:
            raise UsageError("This decoder takes the priors of CLIP; give it a PriorMaker.")
        self.device = torch.device(device)
        self.decoder = decoder.to(self.device).eval()
        self.maker = maker if decoder.prior == "piclip" else None
        self.size, self.sees = size, sees
        self._identity = dict(identity or {"model": None})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        clip: str | Encoder | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        cache: Cache | None = None,
        **hub: Unpack[HubOptions],
    ) -> DecoderScorer:
        """Reads the folder of a training or of a decoder, and the CLIP that its recipe names.

        Args:
            folder: The folder.
            clip: Another CLIP than the recipe's, or one in memory; must be given where there is no
                recipe.
            device: "auto" (CUDA, else the CPU) or a torch device.
            dtype: Of the CLIP; "auto" is what the decoder was trained with.
            cache: Keeps CLIP's features of images that come back.
            hub: Where a CLIP on the hub is, as in `FewShotSegmenter.from_pretrained`.

        Raises:
            ModelError: Decoder, its recipe or CLIP cannot be read.
            UsageError: No CLIP is known, one is given that the decoder does not use, or the device
                cannot be used.
        """
        checkpoint = Checkpoint.find(folder)
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
                if dtype == "auto":
                    dtype = checkpoint.value("clip", "dtype", default="auto")
                source = Encoder.from_pretrained(source, device=place, dtype=dtype, **hub)
            maker = PriorMaker(
                source,
                text=checkpoint.value("clip", "text", default="refined"),
                visual=checkpoint.value("clip", "visual", default=decoder.published_visual),
                cache=cache,
            )
        elif clip is not None:
            raise UsageError(
                f"The decoder in {folder} takes no priors of a CLIP (its prior is "
                f"'{decoder.prior}'); leave clip out."
            )
        identity = {
            "model": str(Path(folder).resolve()),
            "clip": clip.source if isinstance(clip, Encoder) else clip,
            **({} if hub.get("revision") is None else {"revision": hub["revision"]}),
            "weights": weights_hash(decoder),
            "size": size,
        }
        sees = checkpoint.value("clip", "sees", default="augmented")
        return cls(decoder, maker, size=size, sees=sees, device=place, identity=identity)

    @property
    def dtype(self) -> torch.dtype:
        """The CLIP's; a decoder alone computes in float32."""
        return torch.float32 if self.maker is None else self.maker.encoder.dtype

    def to(self, device: str | torch.device) -> None:
        """Moves decoder and CLIP, in place; UsageError where there is no such device."""
        self.device = usable_device(device)
        self.decoder.to(self.device)
        if self.maker is not None:
            self.maker.encoder.to(self.device)

    @torch.inference_mode()
    def fit(
        self,
        name: str,
        supports: Iterable[Labelled],
        *,
        negatives: Iterable[Image.Image] = (),
        synonyms: Synonyms | None = None,
    ) -> DecoderMemory:
        """Looks at the supports once.

        An object that falls between the decoder's pixels is put on those it touches.
        """
        del negatives
        shown = [(np.array(image), mask) for image, mask in supports]
        views = [self._view(image) for image, _ in shown]
        pairs = list(zip(views, shown, strict=True))
        images = torch.stack([view.image(image) for view, (image, _) in pairs])
        masks = torch.stack([_object(view, mask) for view, (_, mask) in pairs])
        if self.maker is None:
            return self._memory(name, images, masks)
        pictures: Sequence[Picture] = list(images)
        inside: Sequence[Mask] = list(masks)
        if self.sees == "plain":
            pictures = [shrunk(image) for image, _ in shown]
            inside = [shrunk_mask(mask) for _, mask in shown]
        objects = self.maker.support_features(pictures, inside)
        return self._memory(name, images, masks, objects, self.maker.texts(name, synonyms))

    def score(
        self,
        images: Sequence[Image.Image],
        memories: Sequence[DecoderMemory],
        *,
        contrast: Sequence[str],
        synonyms: Synonyms | None,
        mirror: bool,
    ) -> list[Scored]:
        """Scores images; each is looked at once for all classes."""
        texts: list[ClassTexts] = []
        if contrast:
            if self.maker is None or self.maker.text == "none":
                raise UsageError(
                    "This decoder has no text prior that other names could change; leave contrast "
                    "out."
                )
            texts = [self.maker.texts(name, synonyms) for name in contrast]
        arrays = [np.array(image) for image in images]
        views = [self._log_odds(arrays, memories, texts)]
        if mirror:
            views.append(self._log_odds([a[:, ::-1] for a in arrays], memories, texts))
        return [
            Scored(LaidBackScores(tuple(seen), (image.height, image.width)), None)
            for image, *seen in zip(images, *views, strict=True)
        ]

    def identity(self) -> dict[str, Any]:
        """The decoder's folder, weights and view, and another CLIP than its training's."""
        return dict(self._identity)

    def fingerprint(self) -> str:
        """That of the weights of decoder and CLIP, and of how they see an image."""
        parts = [weights_hash(self.decoder), str(self.size)]
        if self.maker is not None:
            clip = weights_hash(self.maker.encoder.model)
            parts += [self.sees, self.maker.text, self.maker.visual, clip]
        return content_key(*parts)

    def tensors(self, memory: DecoderMemory) -> dict[str, Tensor]:
        """What the decoder saw of the supports; the backbone's maps are made again from that."""
        tensors = {"images": memory.images, "masks": memory.masks}
        if memory.texts is not None:
            tensors["counts"] = torch.tensor([len(item.last) for item in memory.objects])
            tensors["last"] = torch.cat([item.last for item in memory.objects])
            tensors["previous"] = torch.cat([item.previous for item in memory.objects])
            tensors |= memory.texts._asdict()
        return tensors

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> DecoderMemory:
        """The memory of these tensors, on the decoder's device."""
        images, masks = tensors["images"], tensors["masks"]
        if self.maker is None:
            return self._memory(name, images, masks)
        counts = tensors["counts"].tolist()
        parts = (tensors[key].to(self.device).split(counts) for key in ("last", "previous"))
        objects = [SupportFeatures(*pair) for pair in zip(*parts, strict=True)]
        texts = (tensors[key].to(self.device) for key in ClassTexts._fields)
        return self._memory(name, images, masks, objects, ClassTexts(*texts))

    @torch.inference_mode()
    def encode_queries(self, images: Sequence[NDArray[np.uint8]]) -> list[EncodedQuery]:
        """Encodes queries, RGB (H, W, 3) of any sizes, all at once."""
        views = [self._view(image) for image in images]
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
    def logits(
        self,
        queries: Sequence[EncodedQuery],
        memory: DecoderMemory,
        contrast: Sequence[ClassTexts] = (),
    ) -> Tensor:
        """Scores of background and object in the views of B queries.

        They are float32 (B, 2, S, S) on the CPU. The classes of ``contrast`` join the softmax over
        texts; not without CLIP.
        """
        count, priors = len(queries), None
        if self.maker is not None and memory.texts is not None:
            maps = []
            for view, _, clip in queries:
                assert clip is not None
                own = self.maker.maps(clip, memory.objects, memory.texts, contrast)
                maps.append(view.maps(own) if self.sees == "plain" else own)
            priors = torch.stack(maps).to(self.device)
        episodes = EpisodeFeatures(
            Features.stacked([query.maps for query in queries]),
            Features.stacked([memory.maps] * count),
            torch.stack([memory.masks] * count).to(self.device),
            priors,
        )
        output = self.decoder.decode(episodes)
        return resize(output.logits, (self.size, self.size)).float().cpu()

    def _view(self, image: NDArray[np.uint8]) -> View:
        height, width = image.shape[:2]
        return whole_view(height, width, self.size)

    def _log_odds(
        self,
        arrays: Sequence[NDArray[np.uint8]],
        memories: Sequence[DecoderMemory],
        contrast: Sequence[ClassTexts],
    ) -> Tensor:
        """For each image, RGB (H, W, 3), its classes, (B, C, S, S) on the CPU."""
        queries, classes = self.encode_queries(arrays), []
        for memory in memories:
            # Every query brings a copy of the supports' maps: not more of them than of queries.
            step = max(1, len(queries) // memory.shots)
            parts = [queries[start : start + step] for start in range(0, len(queries), step)]
            logits = torch.cat([self.logits(part, memory, contrast) for part in parts])
            classes.append(logits[:, 1] - logits[:, 0])
        return torch.stack(classes, dim=1)

    @torch.inference_mode()
    def _memory(
        self,
        name: str,
        images: Tensor,
        masks: Tensor,
        objects: Sequence[SupportFeatures] = (),
        texts: ClassTexts | None = None,
    ) -> DecoderMemory:
        """Makes the backbone's maps of what the decoder sees, a few supports at a time."""
        maps = [
            self.decoder.support_features(
                normalise(some.to(self.device))[None], inside.to(self.device)[None]
            )
            for some, inside in zip(images.split(_AT_ONCE), masks.split(_AT_ONCE), strict=True)
        ]
        return DecoderMemory(name, images, masks, Features.stacked(maps), tuple(objects), texts)


def _object(view: View, mask: NDArray[np.bool_]) -> Tensor:
    """A mask as the view shows it, uint8 (S, S)."""
    seen = view.labels(mask.astype(np.uint8))
    if not bool((seen == 1).any()):
        seen[view.touched(mask)] = 1
    return seen
