"""From the labelled files of a command line to a fitted segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from piclip import FewShotSegmenter, Support
from piclip.cli.console import people
from piclip.io.images import read_image, read_mask

Examples = Mapping[str, Sequence[tuple[Path, Path]]]
"""Class name to (image, mask) files."""


def check_examples(examples: Examples, max_pixels: int) -> None:
    """Refuse unreadable images and masks that do not fit, before a model is loaded.

    Raises:
        PiclipError: An image or a mask cannot be used.
    """
    for pairs in examples.values():
        for image, mask in pairs:
            width, height = read_image(image, max_pixels=max_pixels).size
            read_mask(mask, size=(height, width), max_pixels=max_pixels)


def fitted_segmenter(
    examples: Examples,
    *,
    model: str,
    device: str,
    dtype: str,
    max_pixels: int,
    clip: str | None = None,
) -> FewShotSegmenter:
    """Load the model and show it the labelled images.

    Raises:
        PiclipError: The model cannot be loaded, or an example cannot be used.
    """
    with people().status("Loading the model"):
        segmenter = FewShotSegmenter.from_pretrained(model, clip=clip, device=device, dtype=dtype)
        classes = {
            name: [Support(image, mask) for image, mask in pairs]
            for name, pairs in examples.items()
        }
        segmenter.fit(classes, max_pixels=max_pixels)
    return segmenter
