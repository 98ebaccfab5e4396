"""A score to select weights by: mIoU of a decoder on whole, unaugmented validation images."""

from __future__ import annotations

import torch

from piclip.datasets.few_shot import FewShotView
from piclip.decoders.base import FewShotDecoder
from piclip.decoders.clip_priors import PriorMaker
from piclip.decoders.views import normalise
from piclip.evaluation.metrics import FewShotIoU
from piclip.training.episodic import TrainingEpisodes, collate, prior_maps
from piclip.training.loop import moved
from piclip.training.recipe import Recipe

SEED = 321  # validation episodes are the same for every seed of a training


@torch.no_grad()
def validate(
    decoder: FewShotDecoder, view: FewShotView, recipe: Recipe, maker: PriorMaker | None
) -> float:
    """Class-accumulated mIoU in [0, 1] at the size that the decoder sees.

    Args:
        decoder: In evaluation mode.
        view: Classes of the validation split: base ones, or novel ones to repeat what published
            numbers did.
        recipe: Shots, episodes, batch and image size.
        maker: The CLIP priors, where the decoder takes them.
    """
    device = next(decoder.parameters()).device
    episodes = TrainingEpisodes(view, recipe, SEED, augment=False)
    counts = FewShotIoU([view.dataset.class_names[index] for index in view.classes])
    total, size = recipe.validation.episodes, recipe.episodic.batch
    for first in range(0, total, size):
        batch = collate([episodes[i] for i in range(first, min(first + size, total))])
        inputs = moved(batch[0], device)
        priors = None if maker is None else prior_maps(maker, batch, recipe.clip.sees).to(device)
        output = decoder(
            normalise(inputs["query"]),
            normalise(inputs["supports"]),
            inputs["masks"],
            priors,
            base_class=inputs["base_class"] if view.kind == "base" else None,
        )
        found = output.logits.argmax(1).bool().cpu().numpy()
        for episode, mask, truth in zip(batch[1], found, batch[0]["target"].numpy(), strict=True):
            counts.add(episode.source.name, mask, truth)
    return counts.miou()
