"""A trained decoder on the episodes of a dataset, with the CLIP priors it was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from piclip.clip.cache import Cache, MemoryCache, weights_hash
from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode
from piclip.decoders.backbones import resize
from piclip.decoders.clip_priors import ClassTexts
from piclip.decoders.saved import Checkpoint
from piclip.decoders.trained import TrainedDecoder
from piclip.decoders.views import laid_back
from piclip.errors import UsageError
from piclip.evaluation.predictors import Method, Predictor, prior_name, truth_of


class DecoderPredictor:
    """Segments queries with a trained decoder.

    The logits are laid back over the query's own pixels bilinearly before the larger one wins.

    Args:
        trained: The decoder with what belongs to it.
        recipe: Of the training, for the record.
        reload: Makes the same predictor in another process; None where that cannot be done.
    """

    def __init__(
        self,
        trained: TrainedDecoder,
        *,
        recipe: Mapping[str, Any] | None = None,
        reload: Callable[[], Predictor] | None = None,
    ) -> None:
        self.trained, self.recipe, self.reload = trained, recipe, reload

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        wordings: Mapping[str, Sequence[str]],
        *,
        clip: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        cache: Cache | None = None,
    ) -> DecoderPredictor:
        """Reads a checkpoint and the CLIP that its recipe names.

        Args:
            checkpoint: Where it is.
            wordings: What classes are called in the prompts, by name.
            clip: Another CLIP than the recipe's; must be given where there is no recipe.
            device: "auto" (CUDA, else the CPU) or a torch device.
            dtype: Of the CLIP; by default the recipe's.
            cache: Keeps CLIP's features; by default a new one in memory.

        Raises:
            ModelError: Decoder or CLIP cannot be read.
            UsageError: No CLIP is known, or the device cannot be used.
        """
        trained = TrainedDecoder.load(
            checkpoint,
            wordings,
            clip=clip,
            device=device,
            dtype=dtype,
            cache=cache or MemoryCache(),
        )
        again = partial(cls.load, checkpoint, dict(wordings), clip=clip, device=device, dtype=dtype)
        return cls(trained, recipe=checkpoint.recipe, reload=again)

    @property
    def method(self) -> Method:
        """Names, options and hashes of the decoder and its CLIP."""
        trained = self.trained
        prior: str = trained.decoder.prior
        text, visual, clip = None, None, None
        settings: dict[str, Any] = {"size": trained.size}
        if trained.maker is not None:
            encoder = trained.maker.encoder
            text, visual = trained.maker.text, trained.maker.visual
            prior = prior_name(text, visual)
            clip = {"name": encoder.source or "in memory", "sha256": weights_hash(encoder.model)}
            settings["clip_sees"] = trained.sees
        return Method(
            method=trained.decoder.name,
            prior=prior,
            backbone=trained.decoder.backbone_name,
            text=text,
            visual=visual,
            settings=settings,
            recipe=self.recipe,
            clip=clip,
            weights_sha256=weights_hash(trained.decoder),
        )

    def predict(
        self, episodes: Sequence[Episode], others: Sequence[Sequence[str]]
    ) -> list[npt.NDArray[np.bool_]]:
        """See `Predictor`."""
        if not episodes:
            return []
        sizes = [_size(episode.query) for episode in episodes]
        logits = self.logits(episodes, others)
        own = [laid_back(one, size) for one, size in zip(logits, sizes, strict=True)]
        return [np.asarray((scores[1] > scores[0]).numpy()) for scores in own]

    @torch.inference_mode()
    def imagenet_prior(self, episode: Episode) -> npt.NDArray[np.float32]:
        """The previous approach's prior of this backbone, mean over shots, (H, W) in [0, 1].

        Raises:
            UsageError: The decoder was trained with another prior.
        """
        trained = self.trained
        if trained.decoder.prior != "imagenet":
            raise UsageError(
                f"The previous prior is that of a decoder trained with prior=imagenet, but the "
                f"prior of this one is '{trained.decoder.prior}'; name another run."
            )
        (query,), (shown,) = trained.see([episode.query.image]), trained.show([_labelled(episode)])
        masks = shown.masks[None].to(trained.device)
        prior = trained.decoder.imagenet_priors(query.maps, shown.maps, masks)
        mean = prior.mean(dim=1, keepdim=True).float().cpu()
        view = resize(mean, (trained.size, trained.size))[0]
        return np.asarray(laid_back(view, _size(episode.query))[0].clamp(0, 1).numpy())

    def logits(self, episodes: Sequence[Episode], others: Sequence[Sequence[str]]) -> Tensor:
        """Scores of the views, float32 (B, 2, S, S) on the CPU."""
        trained, maker = self.trained, self.trained.maker
        texts: list[ClassTexts] = []
        rivals: list[list[ClassTexts]] = []
        if maker is not None:
            texts = [maker.texts(episode.name) for episode in episodes]
            rivals = [
                [maker.texts(name) for name in names if name != episode.name]
                for episode, names in zip(episodes, others, strict=True)
            ]
        queries = trained.see([episode.query.image for episode in episodes])
        supports = trained.show([_labelled(episode) for episode in episodes])
        return trained.logits(queries, supports, texts, rivals)


def _labelled(episode: Episode) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    return [(s.image, truth_of(s, episode.class_index)) for s in episode.supports]


def _size(sample: Sample) -> tuple[int, int]:
    height, width = sample.class_map.shape
    return height, width
