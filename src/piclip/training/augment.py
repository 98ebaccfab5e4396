"""Augmentation: one affine view of an image, the same for its labels and its prior maps.

Scale, rotation, mirror and crop are one resampling. Every draw is a function of a key such as
(seed, episode, image), so it does not depend on processes, workers or what was drawn before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from piclip.decoders.views import View, affine_view

if TYPE_CHECKING:
    from piclip.training.recipe import AugmentationRecipe

_ATTEMPTS = 20  # crops drawn for one that keeps the object


def draw_view(
    key: Sequence[int],
    height: int,
    width: int,
    recipe: AugmentationRecipe,
    object_mask: NDArray[np.bool_] | None = None,
) -> View:
    """Draws an augmented view of an image (H, W).

    The same key, numbers of 0 or more such as (seed, episode, image), gives the same view. Of up
    to 20 crops the first is taken that keeps the recipe's share of ``object_mask``, bool (H, W),
    or else the one that keeps most.
    """
    random = np.random.default_rng(list(key))
    scale = random.uniform(*recipe.scale)
    if recipe.whole:
        scale *= recipe.size / max(height, width)
    angle = math.radians(random.uniform(-recipe.rotation, recipe.rotation))
    blur, mirror = random.random() < recipe.blur, random.random() < recipe.flip
    # A crop lies anywhere inside the scaled image; a smaller image lies in the middle of it.
    # Rounded, for 375 * (224 / 375) is more than 224, and a whole view should come back exactly.
    reach = [max(0.0, round(side * scale - recipe.size, 6) / 2) for side in (width, height)]
    crops = []
    for _ in range(_ATTEMPTS):
        offset = (random.uniform(-reach[0], reach[0]), random.uniform(-reach[1], reach[1]))
        view = affine_view(
            height, width, recipe.size, scale=scale, angle=angle, mirror=mirror, offset=offset
        )
        if object_mask is None or not any(reach):
            return View(view.theta, recipe.size, blur)
        crops.append((view.kept(object_mask), view))
        if crops[-1][0] >= recipe.keep:
            break
    _, best = max(crops, key=lambda crop: crop[0])
    return View(best.theta, recipe.size, blur)
