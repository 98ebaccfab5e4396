"""Images from arrays and Pillow images."""

import numpy as np
import pytest
from PIL import Image

from piclip.errors import ImageError
from piclip.io.images import read_image, read_mask
from pictures import gradient
from sentences import one_sentence


def test_arrays():
    rgb = gradient()
    np.testing.assert_array_equal(np.asarray(read_image(rgb)), rgb)
    np.testing.assert_array_equal(np.asarray(read_image(rgb / np.float32(255))), rgb)
    np.testing.assert_array_equal(np.asarray(read_image(rgb.astype(np.uint16) * 257)), rgb)
    np.testing.assert_array_equal(np.asarray(read_image((rgb * 257.0).astype(">u2"))), rgb)
    np.testing.assert_array_equal(np.asarray(read_image(rgb[:, :, 0]))[:, :, 2], rgb[:, :, 0])
    np.testing.assert_array_equal(np.asarray(read_image(rgb[:, :, :1]))[:, :, 2], rgb[:, :, 0])
    np.testing.assert_array_equal(np.asarray(read_image(rgb > 99)), (rgb > 99) * 255)
    np.testing.assert_array_equal(np.asarray(read_image(rgb[::-1, ::-1])), rgb[::-1, ::-1])
    rgba = np.dstack([rgb, np.zeros((24, 36), np.uint8)])
    assert np.asarray(read_image(rgba)).min() == 255


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 20, 30), np.uint8),
        np.zeros((2, 20, 30, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((5, 5), np.int64),
        np.full((5, 5), 7.0),
        np.full((5, 5), np.nan),
        np.zeros((5, 5), complex),
        np.zeros((5, 5), object),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError) as error:
        read_image(array)
    assert str(array.shape) in one_sentence(error)


def test_arrays_without_pixels_and_other_objects_are_refused():
    with pytest.raises(ImageError, match="no pixels"):
        read_image(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(ImageError, match="list"):
        read_image([1, 2, 3])
    with pytest.raises(ImageError, match="NoneType"):
        read_mask(None)


def test_the_callers_image_is_left_alone():
    rgba = Image.new("RGBA", (4, 3), (9, 9, 9, 0))
    rgba.info["note"] = "mine"
    shown = read_image(rgba)
    shown.putpixel((0, 0), (1, 2, 3))
    assert rgba.mode == "RGBA"
    assert rgba.info == {"note": "mine"}
    assert rgba.getpixel((0, 0)) == (9, 9, 9, 0)
    rgb = Image.new("RGB", (4, 3), "red")
    assert read_image(rgb) is not rgb
