"""Many images in batches: how they are grouped, and that one failure spoils no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piclip.batches import batches, predict_each
from piclip.errors import ImageError


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 5), st.integers(1, 20))
def test_batches_hold_all_images_in_order_and_as_many_as_fit(widths, batch_size, most_pixels):
    images = [(number, Image.new("L", (width, 1))) for number, width in enumerate(widths)]
    found = list(batches(images, batch_size, most_pixels))
    assert [item for batch in found for item in batch] == images
    assert all(found) or (not images and found == [[]])
    pixels = [sum(image.width for _, image in batch) for batch in found]
    for batch, own in zip(found, pixels, strict=True):
        assert len(batch) <= batch_size
        assert own <= most_pixels or len(batch) == 1
    for batch, own, after in zip(found, pixels, found[1:], strict=False):
        assert len(batch) == batch_size or own + after[0][1].width > most_pixels


def test_images_are_asked_for_one_batch_at_a_time():
    asked = []
    images = ((number, asked.append(number) or Image.new("L", (1, 1))) for number in range(9))
    assert len(next(batches(images, 3, 100))) == 3
    assert asked == [0, 1, 2, 3]  # the one more that began the next batch


class Fragile:
    """Stands for a segmenter that cannot take images of one size."""

    def __init__(self):
        self.asked = []

    def predict(self, images, *, batch_size, threshold, max_pixels):
        self.asked.append(len(images))
        assert batch_size == len(images) and (threshold, max_pixels) == (0.3, 99)
        if any(image.width == 7 for image in images):
            raise ImageError("seven is too wide")
        return [image.width for image in images]


@pytest.mark.parametrize(
    ("widths", "asked"), [([], []), ([1, 2], [2]), ([1, 7, 3], [3, 1, 1, 1]), ([7], [1])]
)
def test_a_failure_spoils_no_other_image(widths, asked):
    segmenter = Fragile()
    images = [Image.new("L", (width, 1)) for width in widths]
    found = list(predict_each(segmenter, images, threshold=0.3, max_pixels=99))
    assert segmenter.asked == asked
    for width, outcome in zip(widths, found, strict=True):
        assert isinstance(outcome, ImageError) if width == 7 else outcome == width
