"""The base learner: a PSPNet that is trained to segment the base classes of a fold."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from piclip.datasets.few_shot import FewShotView, base_class_map
from piclip.decoders.backbones import Backbone
from piclip.decoders.networks import buildable
from piclip.decoders.pspnet import PSPNet
from piclip.decoders.published import load_published
from piclip.decoders.views import normalise
from piclip.training.augment import draw_view
from piclip.training.loop import BASE_WEIGHTS, Phase, moved, seed_everything
from piclip.training.recipe import BaseLearnerRecipe, Recipe

LabelledImage = tuple[Tensor, Tensor]
"""An image in [0, 1], (3, S, S), and its labels, uint8 (S, S)."""


class BaseImages(Dataset[LabelledImage]):
    """Augmented images of a view with labels of the base classes, epoch after epoch.

    Number i is image ``i mod n`` of the ``i // n``-th shuffling of the n images.
    """

    def __init__(self, view: FewShotView, recipe: Recipe) -> None:
        self.view, self.recipe = view, recipe
        own = None if recipe.base is None else recipe.base.augmentation
        self.augmentation = own or recipe.augmentation

    def __getitem__(self, index: int) -> LabelledImage:
        """The image of this number, 0 or more."""
        keys = self.view.keys
        epoch, place = divmod(index, len(keys))
        sample = self.view.dataset.sample(keys[_order(self.recipe.seed, epoch, len(keys))[place]])
        height, width = sample.class_map.shape
        seen = draw_view((self.recipe.seed, index), height, width, self.augmentation)
        labels = base_class_map(self.view, sample.class_map)
        return seen.image(sample.image), seen.labels(labels)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(images)


class BaseObjective(nn.Module):
    """The loss of a PSPNet on a batch, as one module for data-parallel training."""

    def __init__(self, learner: PSPNet) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, images: Tensor, target: Tensor) -> dict[str, Tensor]:
        """``{"loss": cross entropy}`` of images in [0, 1] and uint8 labels."""
        return {"loss": self.learner.loss(self.learner(normalise(images)), target.long())}


def build_learner(recipe: Recipe, view: FewShotView) -> PSPNet:
    """An untrained base learner for a view, on ImageNet's weights where the recipe names them."""
    options = {} if recipe.base is None else recipe.base.options
    seed_everything(BASE_WEIGHTS, recipe.seed)
    with buildable(PSPNet.name, f"of base, {options}"):
        learner = PSPNet(
            backbone=recipe.decoder.backbone,
            classes=len(view.base_classes),
            backbone_options=recipe.decoder.backbone_options,
            **options,
        )
    load_imagenet(learner.backbone, recipe)
    return learner


def load_imagenet(backbone: Backbone, recipe: Recipe) -> None:
    """Reads the ImageNet weights that the recipe names, if it names any."""
    if recipe.decoder.backbone_weights is not None:
        load_published(backbone, recipe.decoder.backbone_weights)


def base_phase(
    learner: PSPNet, view: FewShotView, recipe: Recipe, settings: BaseLearnerRecipe
) -> Phase:
    """The training of a learner with one class for each of the base classes of a train view."""
    learner.backbone.requires_grad_(settings.train_backbone)
    groups: list[dict[str, Any]] = [
        {"params": list(learner.head.parameters()), "factor": settings.head_factor}
    ]
    if settings.train_backbone:
        groups.append({"params": list(learner.backbone.parameters())})

    def inputs(batch: LabelledImage, device: torch.device) -> dict[str, Any]:
        return moved(dict(zip(("images", "target"), batch, strict=True)), device)

    return Phase(
        name="base",
        network=learner,
        objective=BaseObjective(learner),
        groups=groups,
        dataset=BaseImages(view, recipe),
        collate=default_collate,
        inputs=inputs,
        settings=settings,
        steps=settings.steps_for(len(view.keys)),
    )
