"""Every awkward kind of image file, written here and read back; folders of them."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from piclip.errors import ImageError
from piclip.io import decoding
from piclip.io.images import image_size, list_images, read_image
from pictures import gradient
from sentences import one_sentence


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
@pytest.mark.parametrize(
    ("top", "full"),
    [(65535, 65535), (20000, 65535), (16383, 16383), (3000, 4095), (1023, 1023), (200, 255)],
)
def test_16_bit_gray_is_scaled_by_the_bits_that_it_uses(tmp_path, suffix, top, full):
    values = np.linspace(0, top, 24 * 36).astype(np.uint16).reshape(24, 36)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    expected = np.round(values * (255.0 / full))
    np.testing.assert_array_equal(np.asarray(read_image(path))[:, :, 1], expected)


def test_a_big_tiff_and_gray_with_alpha_are_read(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "big.tif", big_tiff=True)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "big.tif")), gradient())
    Image.fromarray(gradient()).convert("LA").save(tmp_path / "alpha.tif")
    assert read_image(tmp_path / "alpha.tif").size == (36, 24)


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
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(path, exif=exif)
    image = read_image(path)
    with Image.open(path) as file:
        expected = ImageOps.exif_transpose(file).convert("RGB")
    assert image.size == ((36, 24) if orientation < 5 else (24, 36))
    assert image_size(path) == (image.height, image.width)
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


# Folders.


def test_list_images(tmp_path):
    for name in ("b.JPG", "a.png", "c d.webp", "ж.tiff", ".hidden.png", "notes.txt", "mask.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").touch()
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["a.png", "b.JPG", "c d.webp", "ж.tiff"]
    assert list_images(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]


def test_a_link_that_leads_nowhere_is_listed_and_hides_no_other(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "b.png").symlink_to("b.png")
    (tmp_path / "c.png").touch()
    (tmp_path / "d.png").symlink_to(tmp_path)
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.png", "c.png"]
    for name, words in {"a.png": "no such file", "b.png": "levels of symbolic links"}.items():
        with pytest.raises(ImageError, match=f"{name}: .*{words}") as error:
            read_image(tmp_path / name)
        one_sentence(error)


def test_pictures_that_cannot_be_read_are_listed_and_say_why(tmp_path):
    starts = {
        "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC.*pip install 'piclip.heif.'"),
        "b.HEIF": (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "HEIF.*pip install 'piclip.heif.'"),
        "c.jxl": (b"\xff\x0a" + bytes(20), "JPEG XL; convert it to PNG"),
        "d.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000; convert it to PNG"),
        "e.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG; convert it to PNG"),
    }
    for name, (data, _) in starts.items():
        (tmp_path / name).write_bytes(data)
    assert [path.name for path in list_images(tmp_path)] == list(starts)
    if importlib.util.find_spec("pillow_heif"):
        pytest.skip("HEIC is read here")
    for name, (_, words) in starts.items():
        with pytest.raises(ImageError, match=f"not an image that can be read here, but {words}"):
            read_image(tmp_path / name)


def test_heic_is_read_where_its_plugin_is_installed(tmp_path, monkeypatch):
    """With a stand-in for pillow-heif, which registers itself at Pillow as that does."""

    def opener(stream, name):
        assert stream.read(12)[4:] == b"ftypheic"
        return Image.open(io.BytesIO(stream.read()))

    heif = types.SimpleNamespace(
        register_heif_opener=lambda: Image.register_open(
            "HEIF", opener, lambda prefix: prefix[4:12] == b"ftypheic"
        )
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", heif)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    decoding._register_heif.cache_clear()
    data = io.BytesIO()
    Image.fromarray(gradient()).save(data, format="PNG")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x0cftypheic" + data.getvalue())
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.heic")), gradient())
    decoding._register_heif.cache_clear()


def test_heic_of_the_plugin_itself_is_read_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="HEIC is read with the extra [heif] alone")
    heif.register_heif_opener()
    pixels = np.zeros((24, 36, 3), np.uint8)
    pixels[:12, :18], pixels[12:, 18:] = [200, 30, 40], [30, 40, 200]
    path, exif, turned = tmp_path / "a.heic", Image.Exif(), Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif[0x0112] = turned.getexif()[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif.tobytes(), quality=95)
        [listed] = list_images(tmp_path)
        shown = np.asarray(read_image(listed)).astype(int)
        expected = np.asarray(ImageOps.exif_transpose(turned))
        assert image_size(path) == expected.shape[:2] == shown.shape[:2]
        assert np.abs(shown - expected).mean() < 4
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="truncated or damaged") as error:
        read_image(path)
    one_sentence(error)


def test_list_images_says_what_is_wrong(tmp_path):
    with pytest.raises(ImageError, match="no such file or folder") as error:
        list_images(tmp_path / "nowhere")
    assert "nowhere" in one_sentence(error)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="no images") as error:
        list_images(tmp_path)
    one_sentence(error)
