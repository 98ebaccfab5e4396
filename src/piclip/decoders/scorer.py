"""Scores by a trained decoder: the probability of the object, class by class, pixel by pixel.

With scores ``l_0`` of background and ``l_1`` of the object, laid over the image's own pixels, the
probability of a class is ``sigmoid(l_1 - l_0)``. Each class is asked on its own, as in training;
the likeliest one takes a pixel if it is likelier than the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from piclip.clip.cache import Cache, content_key, weights_hash
from piclip.clip.features import SupportFeatures
from piclip.clip.prompts import Synonyms
from piclip.decoders.clip_priors import ClassTexts
from piclip.decoders.saved import Checkpoint
from piclip.decoders.trained import EncodedSupports, TrainedDecoder
from piclip.decoders.views import laid_back
from piclip.errors import UsageError
from piclip.io.supports import Labelled
from piclip.scorer import Scored

if TYPE_CHECKING:
    from typing import Unpack

    from piclip.clip.hub import HubOptions


@dataclass(frozen=True, eq=False)
class DecoderMemory:
    """All that is kept of the supports of one class.

    Attributes:
        name: The class.
        supports: The supports with what was made of them, about 20 MB each for a ResNet-50 at 473
            pixels (50 MB with the ImageNet prior), so that they are looked at only once.
        texts: The class's text vectors; None for a decoder without CLIP.
    """

    name: str
    supports: EncodedSupports
    texts: ClassTexts | None

    @property
    def shots(self) -> int:
        """Number of supports K."""
        return len(self.supports.images)


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
        trained: The decoder and what belongs to it.
        identity: What `identity` returns; for a decoder that was read from a folder.
    """

    threshold = 0.5
    takes_negatives = False

    def __init__(self, trained: TrainedDecoder, identity: Mapping[str, Any] | None = None) -> None:
        self.trained = trained
        self._identity = dict(identity or {"model": None})

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        clip: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        cache: Cache | None = None,
        **hub: Unpack[HubOptions],
    ) -> DecoderScorer:
        """Reads the folder of a training or of a decoder.

        Args:
            folder: The folder.
            clip: The CLIP of its priors; by default that of its training.
            device: "auto" (CUDA, else the CPU) or a torch device.
            dtype: Of the CLIP; "auto" is what the decoder was trained with.
            cache: Keeps CLIP's features of images that come back.
            hub: Where a CLIP on the hub is, as in `FewShotSegmenter.from_pretrained`.

        Raises:
            ModelError: Decoder or CLIP cannot be read.
            UsageError: No CLIP is known, or one is given that the decoder does not use.
        """
        checkpoint = Checkpoint.find(folder)
        trained = TrainedDecoder.load(
            checkpoint,
            clip=clip,
            device=device,
            dtype=None if dtype == "auto" else dtype,
            cache=cache,
            **hub,
        )
        if clip is not None and trained.maker is None:
            raise UsageError(
                f"The decoder in {folder} takes no priors of a CLIP (its prior is "
                f"'{trained.decoder.prior}'); leave clip out."
            )
        identity = {
            "model": str(Path(folder).resolve()),
            "clip": clip,
            **({} if hub.get("revision") is None else {"revision": hub["revision"]}),
            "weights": weights_hash(trained.decoder),
            "size": trained.size,
        }
        return cls(trained, identity)

    @property
    def device(self) -> torch.device:
        """The decoder's."""
        return self.trained.device

    @property
    def dtype(self) -> torch.dtype:
        """The CLIP's; a decoder alone computes in float32."""
        maker = self.trained.maker
        return torch.float32 if maker is None else maker.encoder.dtype

    def to(self, device: str | torch.device) -> None:
        """Moves decoder and CLIP."""
        self.trained.to(device)

    def fit(
        self,
        name: str,
        supports: Iterable[Labelled],
        *,
        negatives: Iterable[Image.Image],
        synonyms: Synonyms | None,
    ) -> DecoderMemory:
        """Looks at the supports once."""
        del negatives
        maker = self.trained.maker
        labelled = [(np.array(image), mask.astype(np.uint8)) for image, mask in supports]
        texts = None if maker is None else maker.texts(name, synonyms)
        return DecoderMemory(name, self.trained.encode_supports(labelled), texts)

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
        texts = self._contrast_texts(contrast, synonyms)
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
        trained, maker = self.trained, self.trained.maker
        parts = [weights_hash(trained.decoder), str(trained.size)]
        if maker is not None:
            clip = weights_hash(maker.encoder.model)
            parts += [trained.sees, maker.text, maker.visual, clip]
        return content_key(*parts)

    def tensors(self, memory: DecoderMemory) -> dict[str, Tensor]:
        """What the decoder saw of the supports; the backbone's maps are made again from that."""
        shown = memory.supports
        tensors = {"images": shown.images, "masks": shown.masks}
        if memory.texts is not None:
            tensors["counts"] = torch.tensor([len(item.last) for item in shown.objects])
            tensors["last"] = torch.cat([item.last for item in shown.objects])
            tensors["previous"] = torch.cat([item.previous for item in shown.objects])
            tensors |= memory.texts._asdict()
        return tensors

    def restore(self, name: str, tensors: Mapping[str, Tensor]) -> DecoderMemory:
        """The memory of these tensors, on the decoder's device."""
        device, texts = self.trained.device, None
        objects: list[SupportFeatures] = []
        if self.trained.maker is not None:
            counts = tensors["counts"].tolist()
            parts = (tensors[key].to(device).split(counts) for key in ("last", "previous"))
            objects = [SupportFeatures(*pair) for pair in zip(*parts, strict=True)]
            texts = ClassTexts(tensors["foreground"].to(device), tensors["background"].to(device))
        supports = self.trained.recall(tensors["images"], tensors["masks"], objects)
        return DecoderMemory(name, supports, texts)

    def _contrast_texts(self, names: Sequence[str], synonyms: Synonyms | None) -> list[ClassTexts]:
        if not names:
            return []
        maker = self.trained.maker
        if maker is None or maker.text == "none":
            raise UsageError(
                "This decoder has no text prior that other names could change; leave contrast out."
            )
        return [maker.texts(name, synonyms) for name in names]

    def _log_odds(
        self,
        arrays: Sequence[NDArray[np.uint8]],
        memories: Sequence[DecoderMemory],
        contrast: Sequence[ClassTexts],
    ) -> Tensor:
        """For each image, RGB (H, W, 3), its classes, (B, C, S, S) on the CPU."""
        logits = torch.stack(list(self._logits(arrays, memories, contrast)), dim=1)
        return (logits[:, :, 1] - logits[:, :, 0]).cpu()

    def _logits(
        self,
        arrays: Sequence[NDArray[np.uint8]],
        memories: Sequence[DecoderMemory],
        contrast: Sequence[ClassTexts],
    ) -> Iterator[Tensor]:
        """For each class the scores of all views, (B, 2, S, S)."""
        queries = self.trained.encode_queries(arrays)
        for memory in memories:
            # Every query brings a copy of the supports' maps: not more of them than of queries.
            step = max(1, len(queries) // memory.shots)
            texts = () if memory.texts is None else (memory.texts,)
            parts = []
            for start in range(0, len(queries), step):
                some = queries[start : start + step]
                count = len(some)
                parts.append(
                    self.trained.logits(
                        some, [memory.supports] * count, texts * count, [contrast] * count
                    )
                )
            yield torch.cat(parts)
