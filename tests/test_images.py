"""Every awkward kind of image and mask file, written here and read back."""

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from piclip.errors import ImageError, MaskError, UsageError
from piclip.images import list_images, read_image, read_mask


def gradient(height=24, width=36):
    """An RGB picture without any symmetry, smooth enough to survive lossy formats."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [x / width, y / height, (x + 2 * y) / (width + 2 * height)]
    return np.round(np.stack(channels, axis=2) * 255).astype(np.uint8)


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# --- what kinds of file read as


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_lossless_files_read_exactly(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), gradient())


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_files_read_closely(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient()).save(path, quality=95)
    difference = np.asarray(read_image(path)).astype(int) - gradient()
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("top", [65535, 3000])
def test_16_bit_gray_is_scaled_by_its_full_range(tmp_path, suffix, top):
    values = np.linspace(0, top, 24 * 36).astype(np.uint16).reshape(24, 36)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    expected = np.round(values / 257.0)
    np.testing.assert_array_equal(np.asarray(read_image(path))[:, :, 1], expected)


def test_16_bit_big_endian_tiff(tmp_path):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    path = tmp_path / "big.tif"
    Image.frombytes("I;16B", (30, 20), values.astype(">u2").tobytes()).save(path)
    np.testing.assert_array_equal(np.asarray(read_image(path))[:, :, 0], np.round(values / 257.0))


@pytest.mark.parametrize(
    ("dtype", "values", "shown_low", "shown_high"),
    [
        (np.int32, (0, 65535), 0, 255),
        (np.int32, (-5000, 900_000), 0, 255),
        (np.float32, (0.0, 1.0), 0, 255),
        (np.float32, (0.0, 0.5), 0, 128),
        (np.float32, (0.0, 200.0), 0, 200),
        (np.float32, (-3.0, 12.0), 0, 255),
        (np.float32, (0.0, 1e6), 0, 255),
    ],
)
def test_32_bit_gray_is_scaled_not_clipped(tmp_path, dtype, values, shown_low, shown_high):
    values = np.linspace(*values, 600).astype(dtype).reshape(20, 30)
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    shown = np.asarray(read_image(path))[:, :, 0]
    assert (shown.min(), shown.max()) == (shown_low, shown_high)
    assert np.all(np.diff(shown.ravel().astype(int)) >= 0)
    assert len(np.unique(shown)) > 100


def test_float_image_with_holes_is_read(tmp_path):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0], values[1, 1] = np.nan, np.inf
    path = tmp_path / "holes.tif"
    Image.fromarray(values).save(path)
    shown = np.asarray(read_image(path))[:, :, 0]
    assert (shown[0, 0], shown[1, 1], shown[5, 5]) == (0, 0, 128)


def test_constant_negative_image_is_read(tmp_path):
    path = tmp_path / "flat.tif"
    Image.fromarray(np.full((4, 4), -7.0, np.float32)).save(path)
    assert np.asarray(read_image(path)).max() == 0


def test_bilevel_and_gray_and_palette(tmp_path):
    bits = gradient()[:, :, 0] > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        np.asarray(read_image(tmp_path / "bits.png"))[:, :, 2], bits * 255
    )
    gray = Image.fromarray(gradient()).convert("L")
    gray.save(tmp_path / "gray.png")
    np.testing.assert_array_equal(
        np.asarray(read_image(tmp_path / "gray.png"))[:, :, 2], np.asarray(gray)
    )
    palette = Image.fromarray(gradient()).quantize(32)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        np.asarray(read_image(tmp_path / "palette.png")), np.asarray(palette.convert("RGB"))
    )


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :, 0] = 200
    rgba[:, 0:2, 3], rgba[:, 2:4, 3] = 255, 51  # opaque, a fifth, nothing
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    shown = np.asarray(read_image(tmp_path / "rgba.png")).astype(int)
    assert shown[0, 0].tolist() == [200, 0, 0]
    np.testing.assert_allclose(shown[0, 2], [255 - 55 / 5, 255 * 4 / 5, 255 * 4 / 5], atol=1)
    assert shown[0, 5].tolist() == [255, 255, 255]

    Image.fromarray(rgba).convert("LA").save(tmp_path / "la.png")
    assert np.asarray(read_image(tmp_path / "la.png"))[0, 5].tolist() == [255, 255, 255]

    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "p.png", transparency=1)
    shown = np.asarray(read_image(tmp_path / "p.png"))
    assert shown[0, 0].tolist() == [10, 20, 30]
    assert shown[0, 1].tolist() == [255, 255, 255]
    palette.save(tmp_path / "several.png", transparency=bytes([255, 0]))
    assert np.asarray(read_image(tmp_path / "several.png"))[0, 1].tolist() == [255, 255, 255]


def test_other_colour_spaces(tmp_path):
    picture = Image.fromarray(gradient())
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    # Pillow 12 cannot read back the uncompressed kind that it writes.
    picture.convert("YCbCr").save(tmp_path / "ycbcr.tif", compression="tiff_lzw")
    picture.convert("LAB").save(tmp_path / "lab.tif")
    for name in ("cmyk.jpg", "cmyk.tif", "ycbcr.tif", "lab.tif"):
        difference = np.asarray(read_image(tmp_path / name)).astype(int) - gradient()
        assert np.abs(difference).mean() < 6, name


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as file:
        assert file.n_frames == 3
    shown = np.asarray(read_image(path)).astype(int)
    assert np.abs(shown - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    image = read_image(path)
    with Image.open(path) as file:
        expected = ImageOps.exif_transpose(file).convert("RGB")
    assert image.size == ((36, 24) if orientation < 5 else (24, 36))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(read_image(image)), np.asarray(image))
    with Image.open(path) as file:
        np.testing.assert_array_equal(np.asarray(read_image(file)), np.asarray(expected))


def test_damaged_exif_is_ignored(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(gradient()).save(path, exif=b"Exif\0\0not really a header")
    assert read_image(path).size == (36, 24)


@pytest.mark.parametrize("size", [(1, 1), (900, 7), (7, 900)])
def test_extreme_sizes(tmp_path, size):
    path = tmp_path / "thin.png"
    Image.new("RGB", size, "teal").save(path)
    assert read_image(path).size == size


@pytest.mark.parametrize("name", ["two words.png", "зебра.png", "斑馬 🦓.png", "Gnädig'\"$(x).PNG"])
def test_any_file_name(tmp_path, name):
    Image.fromarray(gradient()).save(tmp_path / name)
    assert read_image(tmp_path / name).size == (36, 24)
    assert read_image(str(tmp_path / name)).size == (36, 24)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", format="JPEG")
    assert read_image(tmp_path / "a.png").size == (36, 24)


# --- arrays and Pillow images


def test_arrays():
    rgb = gradient()
    np.testing.assert_array_equal(np.asarray(read_image(rgb)), rgb)
    np.testing.assert_array_equal(np.asarray(read_image(rgb / np.float32(255))), rgb)
    np.testing.assert_array_equal(np.asarray(read_image(rgb.astype(np.uint16) * 257)), rgb)
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


# --- what cannot be read


def test_missing_folder_empty_and_text(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("This is not a picture, whatever its name says.")
    (tmp_path / "letter.png").write_text("P")
    Image.fromarray(gradient()).save(tmp_path / "jpeg2000.jp2")
    expected = {
        "nothing.png": "no such file",
        "": "a folder",
        "jpeg2000.jp2": "convert it to PNG",
        "empty.jpg": "0 bytes",
        "text.png": "not an image",
        "letter.png": "not an image",
    }
    for name, words in expected.items():
        for read in (read_image, read_mask):
            with pytest.raises(ImageError, match=words) as error:
                read(tmp_path / name)
            assert str(tmp_path / name) in one_sentence(error)
    with pytest.raises(ImageError):
        read_image("a\0b.png")
    with pytest.raises(ImageError):
        read_image("x" * 5000)
    with pytest.raises(ImageError, match="not a regular file"):
        read_image("/dev/null")


def encodings():
    """The same picture in every format that can be read, with noise so that pixels take space."""
    noise = np.random.default_rng(0).integers(0, 60, (64, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(gradient(64, 80) // 2 + noise)
    kinds = {
        "jpeg": ("JPEG", {}),
        "progressive": ("JPEG", {"progressive": True}),
        "png": ("PNG", {}),
        "gif": ("GIF", {}),
        "bmp": ("BMP", {}),
        "ppm": ("PPM", {}),
        "tiff": ("TIFF", {}),
        "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
        "tiff-jpeg": ("TIFF", {"compression": "jpeg"}),
        "webp": ("WEBP", {}),
        "webp-lossless": ("WEBP", {"lossless": True}),
    }
    if features.check("avif"):
        kinds["avif"] = ("AVIF", {})
    for kind, (fmt, options) in kinds.items():
        data = io.BytesIO()
        picture.save(data, fmt, **options)
        yield pytest.param(data.getvalue(), id=kind)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("data", list(encodings()))
def test_no_truncated_file_is_read_in_part(tmp_path, monkeypatch, data, lenient):
    """Also where another library told Pillow to fill up what is missing."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    path = tmp_path / "cut.img"
    path.write_bytes(data)
    whole = np.asarray(read_image(path))
    refused = 0
    lengths = [*range(1, len(data), max(1, len(data) // 23)), len(data) - 1, len(data) - 40]
    for length in lengths:
        path.write_bytes(data[:length])
        try:
            image = read_image(path)
        except ImageError as error:
            assert "cut.img" in str(error)
            refused += 1
        else:  # only bytes after the last pixel were missing
            np.testing.assert_array_equal(np.asarray(image), whole)
            assert length > len(data) * 0.9
    assert refused >= len(lengths) - 2


def test_plain_text_ppm_without_a_last_newline(tmp_path):
    path = tmp_path / "plain.pgm"
    path.write_text("P2 2 2 255 0 255 17 99")
    assert np.asarray(read_image(path))[:, :, 0].tolist() == [[0, 255], [17, 99]]


def test_flipped_bytes_never_end_in_anything_but_an_image_error(tmp_path):
    rng = np.random.default_rng(1)
    for data in encodings():
        for _ in range(6):
            broken = bytearray(data.values[0])
            for place in rng.integers(0, len(broken), 8):
                broken[place] = rng.integers(0, 256)
            path = tmp_path / "broken.img"
            path.write_bytes(broken)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert read_image(path).mode == "RGB"
                except ImageError as error:
                    assert "broken.img" in str(error)


def test_the_limit_is_checked_before_decoding(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:60])  # undecodable: only its header is there
    with pytest.raises(ImageError) as error:
        read_image(path, max_pixels=59_999)
    text = one_sentence(error)
    for words in ("large.png", "60,000", "300 x 200", "59,999", "--max-pixels", "max_pixels"):
        assert words in text
    with pytest.raises(ImageError, match="truncated"):
        read_image(path, max_pixels=60_000)


def test_the_limit_holds_for_masks_arrays_and_pillow_images():
    image = Image.new("L", (30, 20), 255)
    for source in (image, np.asarray(image)):
        for read in (read_image, read_mask):
            with pytest.raises(ImageError, match="600 pixels"):
                read(source, max_pixels=599)
            read(source, max_pixels=600)


def test_pillows_own_limit_neither_breaks_nor_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "bomb.png"
    Image.new("1", (100, 100), 1).save(path)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).size == (100, 100)
        assert read_mask(path).all()
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_bomb_is_refused_by_default(tmp_path):
    header = Image.new("1", (8, 8))
    data = io.BytesIO()
    header.save(data, "PNG")
    raw = bytearray(data.getvalue())
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(raw)
    with pytest.raises(ImageError, match="3,600,000,000 pixels"):
        read_image(path)


# --- masks


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
    np.testing.assert_array_equal(read_mask(tmp_path / "voc.png", value=1), indices == 1)
    np.testing.assert_array_equal(read_mask(tmp_path / "voc.png", value=3), indices == 3)

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
    indices, _ = voc_map()
    np.testing.assert_array_equal(read_mask(indices, value=3), indices == 3)
    np.testing.assert_array_equal(read_mask(Image.fromarray(indices), value=1), indices == 1)
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
    _, image = voc_map()
    with pytest.raises(MaskError, match="class index 2") as error:
        read_mask(image, value=2)
    assert "0, 1, 3, 255" in one_sentence(error)


def test_a_class_index_needs_a_class_map():
    with pytest.raises(MaskError, match="RGB"):
        read_mask(Image.new("RGB", (4, 4), "red"), value=1)
    for value in (0, -1, 255):
        with pytest.raises(UsageError, match=str(value)):
            read_mask(np.ones((4, 4), np.uint8), value=value)


# --- folders


def test_list_images(tmp_path):
    for name in ("b.JPG", "a.png", "c d.webp", "ж.tiff", ".hidden.png", "notes.txt", "mask.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").touch()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["a.png", "b.JPG", "c d.webp", "ж.tiff"]
    assert list_images(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]


def test_list_images_says_what_is_wrong(tmp_path):
    with pytest.raises(ImageError, match="no such file or folder") as error:
        list_images(tmp_path / "nowhere")
    assert "nowhere" in one_sentence(error)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="no images") as error:
        list_images(tmp_path)
    one_sentence(error)
