"""COCO's annotated objects as class maps.

Where objects overlap, the one with the smaller mask lies on top (of equal ones the later): of a
person behind a small cup both stay visible. Crowd regions are 255 (ignore) and lie below all single
objects, whose outlines are more exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from piclip.errors import PiclipError
from piclip.formats.run_lengths import whole_runs
from piclip.io.extras import needs_extra
from piclip.io.images import IGNORE


def draw_objects(
    objects: Sequence[dict[str, Any]],
    size: tuple[int, int],
    value_of: Callable[[int], int],
    *,
    image: str,
    error: type[PiclipError],
) -> NDArray[np.uint8]:
    """Draws the objects of one image, the larger first.

    Args:
        objects: Its annotations.
        size: Its (height, width) in pixels.
        value_of: The value in the map of a category id.
        image: Its name, for the error's sentence.
        error: What is raised for a damaged annotation.

    Returns:
        uint8 (H, W).
    """
    class_map = np.zeros(size, dtype=np.uint8)
    drawn = []
    for annotation in objects:
        try:
            mask = object_mask(annotation["segmentation"], size)
            value = value_of(annotation["category_id"])
        except Exception as cause:  # whatever pycocotools makes of a damaged outline
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise error(
                f"{image}: annotation {annotation.get('id')} cannot be drawn ({reason}); get the "
                f"annotations anew."
            ) from cause
        if annotation.get("iscrowd"):
            class_map[mask] = IGNORE
        else:
            drawn.append((int(mask.sum()), value, mask))
    for _, value, mask in sorted(drawn, key=lambda item: -item[0]):
        class_map[mask] = value
    return class_map


def object_mask(
    outline: Sequence[Any] | dict[str, Any], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The pixels of polygons, or of run lengths as a list or compressed, bool (H, W).

    Raises:
        ValueError: Run lengths that are damaged or of another size.
    """
    masks = coco_masks()
    height, width = size
    if isinstance(outline, dict):
        if tuple(outline["size"]) != size:
            raise ValueError(f"its mask is for {outline['size']}, the image has {list(size)}")
        numbers = whole_runs(outline["counts"], size)
        if numbers is None:
            raise ValueError(
                f"its run lengths are damaged or do not fill {width} x {height} pixels (width x "
                f"height)"
            )
        runs = masks.frPyObjects({"size": list(size), "counts": numbers}, height, width)
    else:
        # Fewer than three points enclose nothing, and pycocotools takes four numbers for a box.
        polygons = [polygon for polygon in outline if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, dtype=np.bool_)
        runs = masks.merge(masks.frPyObjects(polygons, height, width))
    return np.asarray(masks.decode(runs), dtype=np.bool_)


def coco_masks() -> Any:  # noqa: ANN401 - pycocotools has no types
    """``pycocotools.mask``.

    Raises:
        UsageError: It is not installed.
    """
    with needs_extra("data", "Reading COCO's annotations"):
        from pycocotools import mask  # noqa: PLC0415 - an extra
    return mask
