"""TIFF images of any number and kind of bands, and colours of more than 8 bits."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from piclip.errors import ImageError, UsageError
from piclip.io.images import image_size, read_image, read_mask
from pictures import gradient
from sentences import one_sentence
from tiff_files import write_tiff


def samples(bands, kind="u2", size=(24, 37), top=10000):
    """Values whose greatest is ``top``."""
    values = np.random.default_rng(bands).integers(0, top, (*size, bands), endpoint=True)
    values[0, 0] = top
    return values.astype(kind)


def shown(path, bands=None):
    return np.asarray(read_image(path, bands=bands)).astype(int)


def scaled(values, full):
    return np.round(values.astype(np.float64) * (255 / full)).astype(int)


LAYOUTS = {
    "strips": {},
    "one strip": {"rows": 24},
    "tiles": {"tile": (16, 32)},
    "planes": {"planes": True},
    "tiled planes": {"planes": True, "tile": (32, 16)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_bands_are_taken_however_they_are_laid_out(tmp_path, layout, deflate, order, predictor):
    values = samples(6)
    how = {"order": order, "deflate": deflate, "predictor": predictor}
    write_tiff(tmp_path / "a.tif", values, **LAYOUTS[layout], **how)
    found = shown(tmp_path / "a.tif", (6, 1, 4))
    np.testing.assert_array_equal(found, scaled(values[:, :, [5, 0, 3]], 16383))
    gray = shown(tmp_path / "a.tif", (2,))
    np.testing.assert_array_equal(gray, scaled(values[:, :, [1, 1, 1]], 16383))
    assert image_size(tmp_path / "a.tif") == (24, 37)


@pytest.mark.parametrize(
    ("kind", "top", "full"),
    [
        ("u1", 255, 255),
        ("u2", 4000, 4095),
        ("i2", 900, 1023),
        ("u4", 65535, 65535),
        ("f2", 1, 1),
        ("f4", 200, 255),
        ("f8", 1, 1),
    ],
)
def test_bands_of_any_kind_are_scaled_by_what_they_use(tmp_path, kind, top, full):
    values = samples(5, kind, top=top)
    write_tiff(tmp_path / "a.tif", values, photometric=2)
    np.testing.assert_array_equal(
        shown(tmp_path / "a.tif", (3, 2, 1)), scaled(values[:, :, [2, 1, 0]], full)
    )


@pytest.mark.parametrize(("kind", "nothing"), [("f4", "-9999"), ("i2", "-32768\0"), ("f8", "x")])
def test_pixels_of_which_nothing_was_measured_are_black(tmp_path, kind, nothing):
    values = samples(5, kind, top=1 if kind[0] == "f" else 4000)
    expected = scaled(values[:, :, [4, 2, 0]], 1 if kind[0] == "f" else 4095)
    if nothing != "x":
        values[3:6, 4:9] = float(nothing.rstrip("\0"))
        expected[3:6, 4:9] = 0
    write_tiff(tmp_path / "a.tif", values, no_data=nothing)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif", (5, 3, 1)), expected)


@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_that_are_stored_as_differences(tmp_path, layout, order):
    values = np.random.default_rng(0).random((24, 37, 4), np.float32)
    write_tiff(
        tmp_path / "a.tif", values, order=order, deflate=True, predictor=3, **LAYOUTS[layout]
    )
    found = shown(tmp_path / "a.tif", (4, 3, 2))
    np.testing.assert_array_equal(found, scaled(values[:, :, [3, 2, 1]], 1))


@pytest.mark.parametrize(
    ("bands", "kind", "photometric"),
    [(2, "u1", 1), (3, "u2", 1), (4, "u2", 1), (5, "u1", 2), (12, "f4", 1)],
)
def test_which_bands_of_a_tiff_are_colours_is_asked(tmp_path, bands, kind, photometric):
    write_tiff(tmp_path / "a.tif", samples(bands, kind, top=1), photometric=photometric)
    assert image_size(tmp_path / "a.tif") == (24, 37)
    with pytest.raises(
        ImageError, match=f"has {bands} bands, and which of them are gray or"
    ) as error:
        read_image(tmp_path / "a.tif")
    assert "--bands 3,2,1" in one_sentence(error)
    with pytest.raises(ImageError, match=f"no band {bands + 1} but {bands} in all") as error:
        read_image(tmp_path / "a.tif", bands=(1, 2, bands + 1))
    one_sentence(error)


@pytest.mark.parametrize("bands", [(), (1, 2), (1, 2, 3, 4), (0, 1, 2), "432", 4, (4.5, 3, 2)])
def test_bands_are_one_or_three(tmp_path, bands):
    with pytest.raises(UsageError, match="numbers of red, green and blue"):
        read_image(tmp_path / "a.tif", bands=bands)


def test_bands_may_be_chosen_where_they_are_told_and_other_files_have_none(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(shown(tmp_path / "a.tif", (3, 2, 1)), gradient()[:, :, ::-1])
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(shown(tmp_path / "a.png", (3, 2, 1)), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_turned_upright(tmp_path, orientation):
    values = samples(5, "u1", top=255)
    write_tiff(tmp_path / "a.tif", values, orientation=orientation)
    plain = Image.fromarray(values[:, :, [4, 1, 0]])
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain))
    np.testing.assert_array_equal(shown(tmp_path / "a.tif", (5, 2, 1)), expected)
    assert image_size(tmp_path / "a.tif") == expected.shape[:2]


def test_masks_have_no_bands(tmp_path):
    write_tiff(tmp_path / "a.tif", samples(5))
    with pytest.raises(ImageError, match="that no mask has; save it as gray") as error:
        read_mask(tmp_path / "a.tif")
    one_sentence(error)


def test_what_is_packed_otherwise_is_said(tmp_path):
    write_tiff(tmp_path / "a.tif", samples(5))
    data = (tmp_path / "a.tif").read_bytes()
    plain, jpeg = (struct.pack("<HHIHH", 259, 3, 1, packing, 0) for packing in (1, 7))
    assert plain in data
    (tmp_path / "a.tif").write_bytes(data.replace(plain, jpeg))
    with pytest.raises(ImageError, match="bands of this TIFF image cannot be read here") as error:
        read_image(tmp_path / "a.tif", bands=(1,))
    one_sentence(error)


def test_a_large_strip_is_read_unless_it_is_compressed(tmp_path, monkeypatch):
    values = samples(5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # of Pillow, for a whole process
    monkeypatch.setattr("piclip.io.bands._MOST_PACKED", 2000)
    write_tiff(tmp_path / "a.tif", values, rows=24)
    np.testing.assert_array_equal(
        shown(tmp_path / "a.tif", (5,))[..., 0], scaled(values, 16383)[..., 4]
    )
    write_tiff(tmp_path / "b.tif", values, rows=24, deflate=True)
    with pytest.raises(ImageError, match="in tiles by deflate") as error:
        read_image(tmp_path / "b.tif", bands=(5,))
    one_sentence(error)
    write_tiff(tmp_path / "c.tif", values, rows=2, deflate=True)
    assert shown(tmp_path / "c.tif", (5,)).max() > 0


@pytest.mark.parametrize("bands", [None, (3, 2, 1)])
def test_what_a_few_bytes_declare_takes_no_memory(tmp_path, bands):
    write_tiff(tmp_path / "a.tif", samples(5, "u1", size=(5, 5)), tile=(1, 1))
    data = (tmp_path / "a.tif").read_bytes()
    for tag in (256, 257):
        small, large = (struct.pack("<HHIHH", tag, 3, 1, side, 0) for side in (5, 3000))
        assert small in data
        data = data.replace(small, large)
    (tmp_path / "a.tif").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / "a.tif", bands=bands)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one_sentence(error)
    assert most < 3 * 3000 * 3000 + 10**6  # the pixels that are asked for


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_no_banded_tiff_is_read_in_part(tmp_path, deflate, tile):
    write_tiff(tmp_path / "a.tif", samples(5, "u1", top=200), deflate=deflate, tile=tile)
    data, whole = (tmp_path / "a.tif").read_bytes(), shown(tmp_path / "a.tif", (5,))
    for length in range(8, len(data), len(data) // 40):
        (tmp_path / "a.tif").write_bytes(data[:length])
        try:
            found = shown(tmp_path / "a.tif", (5,))
        except ImageError as error:
            assert "\n" not in str(error)
        else:  # only what is written after the pixels was missing
            np.testing.assert_array_equal(found, whole)
            assert length > len(data) * 0.97


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bands", [None, (4, 3, 2)])
def test_a_header_that_is_cut_off_says_nothing_of_the_bands(tmp_path, bands):
    write_tiff(tmp_path / "a.tif", samples(5, "u1", top=200))
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"truncated or damaged \(its header ends too early\)"):
        read_image(tmp_path / "a.tif", bands=bands)


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_end_in_nothing_but_an_image_error(tmp_path):
    write_tiff(tmp_path / "a.tif", samples(5, "u2"), deflate=True, tile=(16, 16), predictor=2)
    data = (tmp_path / "a.tif").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(data)
        spoilt[rng.integers(300)] = rng.integers(256)
        (tmp_path / "a.tif").write_bytes(bytes(spoilt))
        try:
            read_image(tmp_path / "a.tif", bands=(3, 2, 1), max_pixels=10**6)
        except ImageError as error:
            assert "\n" not in str(error)


# Colours that say what they are, of more than 8 bits.


@pytest.mark.parametrize(("top", "full"), [(65535, 65535), (3000, 4095), (1023, 1023)])
@pytest.mark.parametrize("bands", [3, 4])
def test_deep_colours_of_a_tiff_are_scaled_by_the_bits_that_they_use(tmp_path, bands, top, full):
    values = samples(bands, top=top)
    write_tiff(tmp_path / "a.tif", values, photometric=2)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), scaled(values[:, :, :3], full))


def test_deep_inks_are_read_as_before(tmp_path):
    write_tiff(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint16), photometric=5)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), 255)


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_of_deep_colours_are_read_as_before(tmp_path, orientation):
    values = np.zeros((3, 4, 3), np.uint16)
    values[1, 2] = 65535
    write_tiff(tmp_path / "a.tif", values, photometric=2, orientation=orientation)
    expected = np.zeros((3, 4), bool)
    expected[1, 2] = True
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif"), expected)
    np.testing.assert_array_equal(shown(tmp_path / "a.tif")[:, :, 0] == 255, expected)


def deep_png(path, values, kind=2):
    """A PNG of 16 bits, which Pillow cannot write in colours."""
    height, width, _ = values.shape
    rows = values.astype(">u2").reshape(height, -1)

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("top", "full"), [(65535, 65535), (3000, 4095), (1023, 1023)])
def test_deep_colours_of_a_png_are_scaled_by_the_bits_that_they_use(tmp_path, top, full):
    values = samples(3, top=top)
    deep_png(tmp_path / "a.png", values)
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), scaled(values, full))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(tmp_path / "a.png")
