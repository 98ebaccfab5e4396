"""Masks of every depth, with palettes and alpha, from files and arrays; wrong ones are refused."""

import numpy as np
import pytest
from PIL import Image

from piclip.errors import MaskError
from piclip.io.images import read_mask
from sentences import one_sentence


def disc(height=24, width=36):
    y, x = np.mgrid[0:height, 0:width]
    return (y - 9) ** 2 + (x - 20) ** 2 < 40


VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [90, 90, 90] * 251 + [224, 224, 192]


def voc_map():
    """Index 1 on the disc, index 3 in a corner, a ring of 255 around the disc."""
    indices = np.zeros((24, 36), np.uint8)
    y, x = np.mgrid[0:24, 0:36]
    indices[(y - 9) ** 2 + (x - 20) ** 2 < 60] = 255
    indices[disc()] = 1
    indices[20:, :5] = 3
    image = Image.fromarray(indices, "L").convert("P")
    image.putpalette(VOC)
    return indices, image


@pytest.mark.parametrize("top", [1, 128, 255])
def test_gray_masks(tmp_path, top):
    Image.fromarray(disc() * np.uint8(top)).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", size=(24, 36))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, disc())


def test_masks_of_other_depths(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "bits.png")
    Image.fromarray(disc() * np.uint16(7)).save(tmp_path / "deep.png")
    Image.fromarray(disc() * np.int32(70_000)).save(tmp_path / "int.tif")
    Image.fromarray(disc() * np.float32(0.2)).save(tmp_path / "float.tif")
    Image.fromarray(np.dstack([disc() * np.uint8(c) for c in (0, 0, 9)])).save(tmp_path / "c.png")
    for name in ("bits.png", "deep.png", "int.tif", "float.tif", "c.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), disc(), err_msg=name)


def test_jpeg_masks_have_no_halo(tmp_path):
    Image.fromarray(disc() * np.uint8(255)).save(tmp_path / "m.jpg", quality=60)
    difference = read_mask(tmp_path / "m.jpg") ^ disc()
    assert difference.sum() <= 2


def test_masks_with_alpha(tmp_path):
    cut_out = np.dstack([np.full((24, 36, 3), 0, np.uint8), disc() * np.uint8(255)])
    Image.fromarray(cut_out).save(tmp_path / "cut out.png")
    opaque = np.dstack([disc() * np.uint8(255)] * 3 + [np.full((24, 36), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "cut out.png"), disc())
    np.testing.assert_array_equal(read_mask(tmp_path / "opaque.png"), disc())


def test_palette_masks(tmp_path):
    indices, image = voc_map()
    image.save(tmp_path / "voc.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "voc.png"), (indices == 1) | (indices == 3))

    # 0 and 255 as indices: 255 is the only thing that can be meant
    binary = Image.fromarray(disc() * np.uint8(255)).convert("P")
    binary.save(tmp_path / "binary.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "binary.png"), disc())

    # as image editors write it: the palette in any order
    swapped = Image.fromarray((~disc()).astype(np.uint8), "L").convert("P")
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    swapped.save(tmp_path / "swapped.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "swapped.png"), disc())

    # no black at all: index 0 is the background
    pastel = Image.fromarray(disc().astype(np.uint8), "L").convert("P")
    pastel.putpalette([200, 250, 200, 250, 200, 200])
    pastel.save(tmp_path / "pastel.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "pastel.png"), disc())


def test_masks_are_turned_like_their_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(disc() * np.uint8(255)).save(tmp_path / "m.png", exif=exif)
    mask = read_mask(tmp_path / "m.png", size=(36, 24))
    np.testing.assert_array_equal(mask, np.rot90(disc(), -1))


def test_mask_arrays():
    np.testing.assert_array_equal(read_mask(disc()), disc())
    np.testing.assert_array_equal(read_mask(disc() * np.uint8(255)), disc())
    for array in (np.ones((2, 2, 3), bool), np.ones((2, 2)), np.array([["a"]])):
        with pytest.raises(MaskError) as error:
            read_mask(array)
        one_sentence(error)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    Image.fromarray(disc() * np.uint8(255)).save(tmp_path / "m.png")
    with pytest.raises(MaskError) as error:
        read_mask(tmp_path / "m.png", size=(36, 24))
    text = one_sentence(error)
    assert "36 x 24" in text
    assert "24 x 36" in text
    assert "m.png" in text


def test_empty_masks_are_refused(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match="no object pixel") as error:
        read_mask(tmp_path / "m.png")
    assert "m.png" in one_sentence(error)


def test_beside_ones_255_is_ignore(tmp_path):
    ring = (np.indices((24, 36)).sum(axis=0) < 9) & ~disc()
    values = disc() * np.uint8(1) + ring * np.uint8(255)
    for image in (Image.fromarray(values), Image.fromarray(np.dstack([values] * 3))):
        image.save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), disc())
    Image.fromarray(values + disc()).save(
        tmp_path / "m.png"
    )  # 0, 2 and 255 say nothing of the kind
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), disc() | ring)


def rgba(colour, alpha):
    return np.dstack([colour] * 3 + [alpha]).astype(np.uint8)


@pytest.mark.parametrize("alpha", [254, 100])
def test_an_alpha_channel_decides_only_if_it_is_the_mask(tmp_path, alpha):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.png"
    nearly = np.full((24, 36), alpha)
    nearly[0, :5] = 255
    Image.fromarray(rgba(disc() * 255, nearly)).save(path)
    np.testing.assert_array_equal(read_mask(path), disc())
    frame = np.full((24, 36), 255)
    frame[:, :3] = 0
    Image.fromarray(rgba(disc() * 255, frame)).save(path)
    np.testing.assert_array_equal(read_mask(path), disc())
    photo = rng.integers(0, 256, (24, 36))  # cut out along the mask, black pixels included
    Image.fromarray(rgba(photo, disc() * 255)).save(path)
    np.testing.assert_array_equal(read_mask(path), disc())


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.where(disc(), 255, 128).astype(np.uint8)),
        Image.fromarray(np.where(disc(), 2, 1).astype(np.int32)),
        Image.fromarray(np.dstack([np.where(disc(), 255, 9)] * 3).astype(np.uint8)),
    ],
)
def test_a_background_that_is_not_zero_is_questioned(tmp_path, image):
    image.save(tmp_path / "m.tif")
    for source in (tmp_path / "m.tif", np.asarray(image)[..., 0] if image.mode == "RGB" else image):
        with pytest.raises(MaskError, match=r"no pixel of the mask is 0.*values \d+, \d+") as error:
            read_mask(source)
        one_sentence(error)
    assert read_mask(np.full((4, 5), 7, np.uint8)).all()
