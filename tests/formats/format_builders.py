"""Labels and image files that the tests of the formats share."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from piclip.formats import LabelledFile, Labels, Region, RunLengthMask

# A busy machine is no failure, and files of the same name may be written over each other.
unhurried = settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = ("cat", "big dog")


def mask_of(rows):
    """A bool mask from text, # for the object."""
    return np.array([[c == "#" for c in row] for row in rows])


HOLED = mask_of(["#####.#", "#...#..", "#.#.#..", "#...#..", "#####.#"])


def pack(mask):
    return RunLengthMask.from_array(np.asarray(mask, dtype=np.bool_))


@st.composite
def masks(draw, size=None):
    """Any mask with at least one pixel: holes, parts and parts that touch at corners."""
    height, width = size or draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    # One number instead of one draw per pixel: the same masks, drawn much faster.
    bits = draw(st.integers(0, 2 ** (height * width) - 1))
    mask = np.array([bits >> k & 1 for k in range(height * width)], bool).reshape(height, width)
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


@st.composite
def labels(draw, crowds=False, scores=False):
    """One to three images with nothing to three regions of two classes, any overlap."""
    files = []
    for index in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
        regions = [
            Region(
                draw(st.sampled_from(NAMES)),
                pack(draw(masks(size))),
                crowd=crowds and draw(st.booleans()),
                score=draw(st.floats(0, 1)) if scores else None,
            )
            for _ in range(draw(st.integers(0, 3)))
        ]
        files.append(LabelledFile(f"{'in/' * index}photo.{index}.png", *size, tuple(regions)))
    return Labels(NAMES, tuple(files))


def save_images(found, root):
    """Black images of the sizes that the labels speak of."""
    for file in found.images:
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (file.width, file.height)).save(path)
    return root


def simple(*masks_of_cat):
    """One image of the first mask's size that shows cats."""
    regions = tuple(Region("cat", pack(mask)) for mask in masks_of_cat)
    return Labels(NAMES, (LabelledFile("photo.png", *masks_of_cat[0].shape, regions),))
