"""Many images, read ahead of whoever works on them, in groups that memory has room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from piclip.errors import PiclipError, UsageError
from piclip.io.decoding import ImageSource

_PIXELS_AT_ONCE = 100_000_000  # of all images of a batch: 300 MB


def sources(images: ImageSource | Iterable[ImageSource]) -> Iterator[ImageSource]:
    """One image or many, one by one; what is none is refused when its turn comes."""
    kinds = (str, Path, Image.Image, np.ndarray)
    single = isinstance(images, kinds) or not isinstance(images, Iterable)
    wanted = "a file, a Pillow image or an array (H, W, 3), or a list or generator of such"
    many = [images] if single else images
    for image in cast("Iterable[object]", many):
        if not isinstance(image, kinds):
            raise UsageError(f"Images are {wanted}, not {type(image).__name__}.")
        if isinstance(image, np.ndarray) and image.ndim not in (2, 3):
            raise UsageError(f"Images are {wanted}, not an array of the shape {image.shape}.")
        yield image


Read: TypeAlias = tuple[ImageSource, Image.Image | PiclipError]
"""An image, or why it cannot be read."""


def read_ahead(
    sources: Iterable[ImageSource], read: Callable[[ImageSource], Image.Image], ahead: int
) -> Iterator[Read]:
    """Images, or why they cannot be read, in order; a thread is up to ``ahead`` of them ahead.

    Where the sources end with an error, it comes after the images before it.
    """
    waiting: deque[tuple[ImageSource, Future[Image.Image]]] = deque()

    def settled() -> Read:
        source, reading = waiting.popleft()
        try:
            return source, reading.result()
        except PiclipError as error:
            return source, error

    thread = ThreadPoolExecutor(1)
    try:
        try:
            for source in sources:
                waiting.append((source, thread.submit(read, source)))
                if len(waiting) > ahead:
                    yield settled()
        except Exception:
            while waiting:
                yield settled()
            raise
        while waiting:
            yield settled()
    finally:
        thread.shutdown(cancel_futures=True)


def batches(images: Iterable[Read], batch_size: int) -> Iterator[list[Read]]:
    """Groups of ``batch_size``, and of no more pixels than memory has room for.

    Where the images end with an error, it comes after the last group.
    """
    batch: list[Read] = []
    pixels = 0
    try:
        for source, image in images:
            own = image.width * image.height if isinstance(image, Image.Image) else 0
            if batch and (len(batch) == batch_size or pixels + own > _PIXELS_AT_ONCE):
                yield batch
                batch, pixels = [], 0
            batch.append((source, image))
            pixels += own
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
