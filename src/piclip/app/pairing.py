"""Which uploaded mask belongs to which uploaded image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from piclip.errors import UsageError


def pair_by_name(images: Sequence[str], masks: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pair images and masks by their names without suffix; one of each belong together anyway.

    Args:
        images: Files, in any order.
        masks: Files, in any order.

    Returns:
        (image, mask), in the order of the images.

    Raises:
        UsageError: A file of either kind is missing.
    """
    if not images or not masks:
        missing = "image" if not images else "mask"
        raise UsageError(f"Upload at least one {missing} first: every image needs its mask.")
    if len(images) == len(masks) == 1:
        return [(Path(images[0]), Path(masks[0]))]
    by_stem = {Path(mask).stem.lower(): Path(mask) for mask in masks}
    lonely = [Path(image).name for image in images if Path(image).stem.lower() not in by_stem]
    if lonely or len(masks) != len(images):
        what = f"{lonely[0]} has none" if lonely else f"{len(images)} and {len(masks)} came"
        raise UsageError(
            f"Each image needs a mask of the same name (zebra.jpg and zebra.png), but {what}."
        )
    return [(Path(image), by_stem[Path(image).stem.lower()]) for image in images]
