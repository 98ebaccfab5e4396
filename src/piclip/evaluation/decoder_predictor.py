"""A trained decoder on the episodes of a dataset, with the CLIP priors it was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from piclip.clip.encoder import Encoder
from piclip.clip_priors import PriorMaker
from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode
from piclip.decoders.backbones import resize
from piclip.decoders.base import FewShotDecoder
from piclip.decoders.pretrained import read_config
from piclip.decoders.registry import load_decoder
from piclip.decoders.views import View, laid_back, normalise, whole_view
from piclip.errors import ModelError, UsageError
from piclip.evaluation.memory_cache import MemoryCache
from piclip.evaluation.predictors import Method, Predictor, prior_name, truth_of
from piclip.feature_cache import weights_hash
from piclip.training.episodic import TrainingEpisode, collate, prior_maps

_RECIPE, _DECODER = "recipe.yaml", "decoder"
_SIZE = 473  # of the benchmarks


@dataclass(frozen=True)
class Checkpoint:
    """A trained decoder on disk.

    Attributes:
        folder: What ``save_pretrained`` wrote.
        recipe: The resolved recipe that lies beside it; None for a decoder from elsewhere.
    """

    folder: Path
    recipe: Mapping[str, Any] | None = None

    @classmethod
    def find(cls, folder: str | Path) -> Checkpoint:
        """Looks for a decoder in a run's folder or in the decoder's own.

        Raises:
            ModelError: There is none, or its recipe is damaged.
        """
        given = Path(folder)
        decoder = given / _DECODER if (given / _DECODER).is_dir() else given
        if not decoder.is_dir():
            raise ModelError(
                f"{folder} is no folder; give the run of a finished training, a decoder's folder "
                f"or 'training-free'."
            )
        read_config(decoder)
        beside = [place / _RECIPE for place in (decoder, decoder.parent)]
        found = next((path for path in beside if path.is_file()), None)
        return cls(decoder, None if found is None else _read_recipe(found))

    def value(self, *keys: str, default: object = None) -> Any:  # noqa: ANN401 - of many kinds
        """An entry of the recipe, or the default where there is no recipe."""
        entry: Any = self.recipe
        for key in keys:
            entry = entry.get(key) if isinstance(entry, Mapping) else None
        return default if entry is None else entry


class DecoderPredictor:
    """Segments queries with a decoder; images are shown whole, the longer side at its size.

    The logits are laid back over the query's own pixels bilinearly before the larger one wins.

    Args:
        decoder: The decoder; it is set to evaluation mode.
        maker: The CLIP priors; needed exactly where the decoder takes them.
        size: Side in pixels of what the decoder sees.
        sees: Whether CLIP looks at the padded view ("augmented") or at the plain image.
        recipe: Of the training, for the record.
        device: Where the decoder runs.

    Raises:
        UsageError: The decoder needs priors and there is no maker.
    """

    reload: Callable[[], Predictor] | None = None

    def __init__(
        self,
        decoder: FewShotDecoder,
        maker: PriorMaker | None = None,
        *,
        size: int = _SIZE,
        sees: str = "augmented",
        recipe: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Takes the arguments of the class."""
        if decoder.prior == "piclip" and maker is None:
            raise UsageError("This decoder takes the priors of CLIP; give it a PriorMaker.")
        self.device = torch.device(device)
        self.decoder = decoder.to(self.device).eval()
        self.maker = maker if decoder.prior == "piclip" else None
        self.size, self.sees, self.recipe = size, sees, recipe

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        wordings: Mapping[str, Sequence[str]],
        *,
        clip: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> DecoderPredictor:
        """Reads a checkpoint and the CLIP that its recipe names.

        Args:
            checkpoint: Where it is.
            wordings: What classes are called in the prompts, by name.
            clip: Another CLIP than the recipe's; must be given where there is no recipe.
            device: "auto" (CUDA, else the CPU) or a torch device.
            dtype: Of the CLIP; by default the recipe's.

        Raises:
            ModelError: Decoder or CLIP cannot be read.
            UsageError: No CLIP is known, or the device cannot be used.
        """
        decoder = load_decoder(checkpoint.folder)
        place = _device(device)
        maker = None
        if decoder.prior == "piclip":
            name = clip or checkpoint.value("clip", "model")
            if name is None:
                raise UsageError(
                    f"{checkpoint.folder} has no {_RECIPE} that names its CLIP; say which with "
                    f"--model."
                )
            kind = dtype or checkpoint.value("clip", "dtype", default="auto")
            maker = PriorMaker(
                Encoder.from_pretrained(name, device=place, dtype=kind),
                wordings,
                text=checkpoint.value("clip", "text", default="refined"),
                visual=checkpoint.value("clip", "visual", default="plain"),
                cache=MemoryCache(),
            )
        predictor = cls(
            decoder,
            maker,
            size=checkpoint.value("augmentation", "size", default=_SIZE),
            sees=checkpoint.value("clip", "sees", default="augmented"),
            recipe=checkpoint.recipe,
            device=place,
        )
        again = partial(cls.load, checkpoint, dict(wordings), clip=clip, device=device, dtype=dtype)
        predictor.reload = again
        return predictor

    @property
    def method(self) -> Method:
        """Names, options and hashes of the decoder and its CLIP."""
        prior: str = self.decoder.prior
        text, visual, clip = None, None, None
        settings: dict[str, Any] = {"size": self.size}
        if self.maker is not None:
            encoder = self.maker.encoder
            text, visual = self.maker.text, self.maker.visual
            prior = prior_name(text, visual)
            clip = {"name": encoder.source or "in memory", "sha256": weights_hash(encoder.model)}
            settings["clip_sees"] = self.sees
        return Method(
            method=self.decoder.name,
            prior=prior,
            backbone=self._backbone(),
            text=text,
            visual=visual,
            settings=settings,
            recipe=self.recipe,
            clip=clip,
            weights_sha256=weights_hash(self.decoder),
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
        """The previous approach's prior of this backbone, mean over shots, (H, W) in [0, 1]."""
        batch = collate([self._seen(episode, ())])
        masks = batch.masks.to(self.device)
        query = self.decoder.query_features(normalise(batch.query.to(self.device)))
        supports = self.decoder.support_features(normalise(batch.supports.to(self.device)), masks)
        prior = self.decoder.imagenet_priors(query, supports, masks).mean(dim=1, keepdim=True)
        view = resize(prior.float().cpu(), (self.size, self.size))[0]
        return np.asarray(laid_back(view, _size(episode.query))[0].clamp(0, 1).numpy())

    @torch.inference_mode()
    def logits(self, episodes: Sequence[Episode], others: Sequence[Sequence[str]]) -> Tensor:
        """Scores of the views, float32 (B, 2, S, S) on the CPU."""
        pairs = zip(episodes, others, strict=True)
        batch = collate([self._seen(episode, rivals) for episode, rivals in pairs])
        priors = None
        if self.maker is not None:
            priors = prior_maps(self.maker, batch, self.sees).to(self.device)
        output = self.decoder(
            normalise(batch.query.to(self.device)),
            normalise(batch.supports.to(self.device)),
            batch.masks.to(self.device),
            priors,
        )
        logits: Tensor = output.logits.float().cpu()
        return logits

    def _seen(self, episode: Episode, others: Sequence[str]) -> TrainingEpisode:
        query, _, view = self._whole(episode.query, episode.class_index)
        seen = [self._whole(support, episode.class_index) for support in episode.supports]
        blank = torch.zeros(self.size, self.size, dtype=torch.uint8)
        return TrainingEpisode(
            query=query,
            supports=torch.stack([image for image, _, _ in seen]),
            masks=torch.stack([mask for _, mask, _ in seen]),
            target=blank,
            base_target=blank,
            base_class=0,
            others=tuple(others),
            view=view,
            source=episode,
        )

    def _whole(self, sample: Sample, class_index: int) -> tuple[Tensor, Tensor, View]:
        view = whole_view(*_size(sample), self.size)
        truth = truth_of(sample, class_index)
        return view.image(sample.image), view.labels(truth), view

    def _backbone(self) -> str:
        config: Mapping[str, Any] = self.decoder._hub_mixin_config or {}
        return str(config.get("backbone", "resnet50"))


def _size(sample: Sample) -> tuple[int, int]:
    height, width = sample.class_map.shape
    return height, width


def _read_recipe(path: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path} cannot be read as a recipe; train again.") from error
    if not isinstance(recipe, dict):
        raise ModelError(f"{path} holds no recipe; train again.")
    return recipe


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"The device {name!r} cannot be used here; choose auto or cpu.") from error
    return device
