"""Pictures of squares with their masks, and a tower that sees nothing but colours."""

import numpy as np
import torch
from PIL import Image

from piclip import Support
from piclip.clip.settings import ModelSettings

RED, GREEN, BLUE = (230, 40, 40), (40, 200, 60), (50, 60, 220)


def picture(place=(8, 8), *, colour=RED, ground=GREEN, size=(64, 64), side=24, seed=0):
    """A square of a colour on a ground, both a little noisy, and its mask; no square for None."""
    generator = np.random.default_rng(seed)
    image = np.empty((*size, 3))
    image[:] = ground
    mask = np.zeros(size, bool)
    if place is not None:
        mask[place[0] : place[0] + side, place[1] : place[1] + side] = True
        image[mask] = colour
    image += generator.normal(0, 12, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def support(*arguments, **options):
    return Support(*picture(*arguments, **options))


def pillow(*arguments, **options):
    image, mask = picture(*arguments, **options)
    return Image.fromarray(image), mask


class Colours:
    """A tower whose tokens are the patches' mean colours about grey, so that answers are known."""

    def __init__(self, image_size=64, **settings):
        self.settings = ModelSettings(
            image_size, None, (0.5,) * 3, (0.5,) * 3, blocks=(1,), **settings
        )
        self.patch_size, self.depth, self.device = 8, 1, torch.device("cpu")
        self.asked = 0

    def tokens(self, pixels, blocks):
        self.asked += len(pixels)
        means = torch.nn.functional.avg_pool2d(pixels, self.patch_size)
        return [means.flatten(2).mT for _ in blocks]
