"""Many images through a segmenter, a few at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from PIL import Image

from piclip.errors import PiclipError
from piclip.results import Segmentation
from piclip.segmenter import FewShotSegmenter

Key = TypeVar("Key")


def batches(
    images: Iterable[tuple[Key, Image.Image]], batch_size: int, most_pixels: int
) -> Iterator[list[tuple[Key, Image.Image]]]:
    """Group images as they come.

    Args:
        images: What the caller knows each by, and the image; none is asked for too early.
        batch_size: Most images of a batch.
        most_pixels: Most pixels of all images of a batch together; a single one may exceed it.

    Yields:
        The batches; the last one also where it is empty, as images that could not be read may
        have come before it.
    """
    batch: list[tuple[Key, Image.Image]] = []
    pixels = 0
    for key, image in images:
        area = image.width * image.height
        if batch and (len(batch) == batch_size or pixels + area > most_pixels):
            yield batch
            batch, pixels = [], 0
        batch.append((key, image))
        pixels += area
    yield batch


def predict_each(
    segmenter: FewShotSegmenter,
    images: Sequence[Image.Image],
    *,
    threshold: float | None,
    max_pixels: int,
) -> Iterator[Segmentation | PiclipError]:
    """Segment a batch; where that fails, image by image, so that one does not spoil the others.

    Args:
        segmenter: It has learned the classes.
        images: The batch.
        threshold: Least score of a class; None for the model's own.
        max_pixels: Larger images are refused.

    Yields:
        For each image its result, or why there is none.
    """
    if not images:
        return
    try:
        results = segmenter.predict(
            images, batch_size=len(images), threshold=threshold, max_pixels=max_pixels
        )
    except PiclipError as error:
        if len(images) == 1:
            yield error
            return
        for image in images:
            yield from predict_each(segmenter, [image], threshold=threshold, max_pixels=max_pixels)
    else:
        yield from results
