"""Labelled images as people give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.io.bands import Bands
from piclip.io.decoding import ImageSource
from piclip.io.images import MAX_PIXELS, read_image, read_mask


@dataclass(frozen=True)
class Support:
    """One labelled image.

    Attributes:
        image: A file, a Pillow image or an RGB array.
        mask: Where the class is: a file, a Pillow image or an array of the image's size.
    """

    image: ImageSource
    mask: ImageSource


Labelled: TypeAlias = tuple[Image.Image, npt.NDArray[np.bool_]]
"""An RGB image and its mask (H, W), not empty."""


def read_labelled(
    support: Support, *, max_pixels: int = MAX_PIXELS, bands: Bands | None = None
) -> Labelled:
    """Reads a support: an RGB image, as `read_image`, and its bool mask (H, W), not empty.

    Raises:
        ImageError: The image cannot be read.
        MaskError: The mask is empty, of another size, or cannot be read.
    """
    image = read_image(support.image, max_pixels=max_pixels, bands=bands)
    mask = read_mask(support.mask, size=(image.height, image.width), max_pixels=max_pixels)
    return image, mask
