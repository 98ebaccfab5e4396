"""Missing, truncated, damaged and too large image files end in an ImageError."""

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from piclip.errors import ImageError
from piclip.io.images import read_image, read_mask
from pictures import gradient
from sentences import one_sentence


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
