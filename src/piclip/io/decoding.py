"""Decode image sources fully and upright, or say in one sentence why that cannot be done."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, TiffImagePlugin

from piclip.errors import ImageError
from piclip.io.bands import BandedTiff, Bands, is_deep, open_tiff, to_8_bits

ImageSource: TypeAlias = str | Path | Image.Image | npt.NDArray[Any]

# Not EPS, for which Pillow starts Ghostscript, nor JPEG 2000, whose decoder cannot be kept from
# filling up truncated files, nor formats without a signature.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "HEIF")
_UNREAD = {
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
    b"ftyphevc": "HEIC",
    b"ftypmif1": "HEIF",
    b"ftypmsf1": "HEIF",
    b"JXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"jP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"<svg": "SVG",
}
"""What is in the first bytes of pictures that are known but not read, or with an extra only."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _WholeFile(io.BufferedReader):
    """A file that refuses to be read past its end while pixels are decoded.

    Pillow fills up truncated images without a word once any library in the process has set
    ``ImageFile.LOAD_TRUNCATED_IMAGES``; that setting is not ours to change, so the end of the
    file is made an error here.
    """

    decoding = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.decoding and not data and size != 0:
            raise OSError("it ends too early")
        return data


def decode(
    source: str | Path | Image.Image,
    max_pixels: int,
    *,
    colours: bool = False,
    bands: Bands | None = None,
) -> Image.Image:
    """Decode a file or a lazily opened image fully and turn it upright, in its own mode.

    Args:
        source: A file or a Pillow image.
        max_pixels: Larger images are refused, files before they are decoded.
        colours: Whether a file is to be looked at: more than 8 bits of a colour are scaled to 8.
        bands: Of a TIFF file, those to take for its colours; by default those that it tells.

    Returns:
        The image in its own mode and palette, with its ``format`` where known.

    Raises:
        ImageError: The source is missing, not an image, truncated, damaged or too large.
    """
    name = name_of(source)
    if isinstance(source, Image.Image):
        check_pixels(name, source.width, source.height, max_pixels)
        try:
            source.load()
        except Exception as error:  # Pillow's decoders raise anything on broken files
            raise ImageError(f"{name}: the image cannot be decoded ({reason(error)}).") from error
        return _upright(source, orientation_of(source))
    if not isinstance(source, str | Path):
        raise ImageError(
            f"An image cannot be read from a {type(source).__name__}; give a file, a Pillow image "
            f"or a NumPy array."
        )
    with opened(Path(source), max_pixels, bands) as image:
        return _loaded(image, name, colours=colours, bands=bands)


def decode_bytes(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """As `decode`, of what an image file would hold; ``name`` is what errors call it."""
    with _identified(_WholeFile(io.BytesIO(data)), name, max_pixels) as image:
        return _loaded(image, name)


@contextmanager
def opened(
    path: Path, max_pixels: int, bands: Bands | None = None
) -> Iterator[ImageFile.ImageFile]:
    """An image file of which only the header is read, for its size, mode and orientation.

    A TIFF whose bands Pillow does not read, or is not to choose, is a `BandedTiff`. ImageError if
    the file is missing, not an image, damaged or too large.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ImageError(f"{path}: this is {kind}, not an image; give an image file.")
        stream = _WholeFile(io.FileIO(path))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {reason(error)}; check the path.") from error
    with _identified(stream, str(path), max_pixels, bands) as image:
        yield image


@contextmanager
def _identified(
    stream: _WholeFile, name: str, max_pixels: int, bands: Bands | None = None
) -> Iterator[ImageFile.ImageFile]:
    with stream:
        image = _identify(stream, name, bands)
        check_pixels(name, image.width, image.height, max_pixels)
        # Pillow reads plain-text PPM up to the end of the file even when nothing is missing.
        stream.decoding = all(tile[0] != "ppm_plain" for tile in image.tile)
        yield image


def _loaded(
    image: ImageFile.ImageFile, name: str, *, colours: bool = False, bands: Bands | None = None
) -> Image.Image:
    try:
        loaded = _colours(image, bands, name) if colours else _own_mode(image, name)
        loaded.format = image.format
        return _upright(loaded, orientation_of(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on broken files
        raise ImageError(
            f"{name}: the image is truncated or damaged ({reason(error)}); "
            f"replace it by an intact copy."
        ) from error


def _own_mode(image: ImageFile.ImageFile, name: str) -> Image.Image:
    if isinstance(image, BandedTiff):
        raise ImageError(
            f"{name}: this TIFF image has bands of a kind or number that no mask has; save it as "
            f"gray of 8 bits."
        )
    image.load()
    return image


def _colours(image: ImageFile.ImageFile, bands: Bands | None, name: str) -> Image.Image:
    stream: Any = image.fp
    if isinstance(image, TiffImagePlugin.TiffImageFile) and is_deep(image):
        stream.seek(0)
        image = BandedTiff(stream, "")
    if isinstance(image, BandedTiff):
        return Image.fromarray(to_8_bits(image.samples(bands, name)))
    halves = isinstance(image, PngImagePlugin.PngImageFile) and image.tile[0][3] == "RGB;16B"
    if halves and not image.has_transparency_data:
        return Image.fromarray(to_8_bits(_deep_png(image, stream)))
    image.load()
    return image


def _deep_png(image: ImageFile.ImageFile, stream: Any) -> npt.NDArray[np.uint16]:  # noqa: ANN401
    """The colours (H, W, 3) of 16 bits, of which Pillow reads the high half, or the low one."""
    high = np.asarray(image)
    stream.seek(0)
    low = PngImagePlugin.PngImageFile(stream, "")
    low.tile = [(*tile[:3], "RGB;16L") for tile in low.tile]  # type: ignore[misc]
    return np.asarray(high.astype(np.uint16) << 8 | np.asarray(low))


def _identify(stream: _WholeFile, name: str, bands: Bands | None) -> ImageFile.ImageFile:
    """Open with the plugin that knows the file's first bytes, nothing decoded yet.

    ``Image.open`` is this loop plus a check against a pixel limit that belongs to the whole
    process; here the caller's own limit decides instead, before anything is decoded.
    """
    start = stream.read(64)
    prefix = start[:16]
    if not prefix:
        raise ImageError(f"{name}: the file is empty (0 bytes); replace it by an intact copy.")
    Image.init()
    _register_heif()
    for kind in _FORMATS:
        if kind not in Image.OPEN or (kind == "AVIF" and b"avi" not in start):
            continue  # Pillow takes every HEIF of the brand mif1 for AVIF
        factory, accept = Image.OPEN[kind]
        try:
            if not callable(accept) or accept(prefix) is not True:
                continue
            stream.seek(0)
            return open_tiff(stream, bands) if kind == "TIFF" else factory(stream, "")
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(
                f"{name}: the {kind} image has more pixels than Pillow opens in this format; "
                f"make it smaller."
            ) from error
        except Exception as error:  # Pillow's plugins raise anything on broken files
            raise ImageError(
                f"{name}: the {kind} image is truncated or damaged ({reason(error)}); "
                f"replace it by an intact copy."
            ) from error
    for mark, kind in _UNREAD.items():
        if prefix.startswith(mark) or prefix[4:].startswith(mark):
            extra = ", or pip install 'piclip[heif]'" if kind.startswith("HEI") else ""
            raise ImageError(
                f"{name}: this is not an image that can be read here, but {kind}; convert it to "
                f"PNG or JPEG{extra}."
            )
    raise ImageError(
        f"{name}: this is not an image that can be read here; convert it to PNG or JPEG."
    )


@cache
def _register_heif() -> None:
    """Let Pillow know HEIC and HEIF where the extra [heif] is installed."""
    try:
        heif = import_module("pillow_heif")
    except ImportError:
        return
    heif.register_heif_opener()


def check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image without pixels or with more than the limit (ImageError)."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width} x {height}).")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: the image has {width * height:,} pixels ({width} x {height}) and the limit "
            f"is {max_pixels:,}; make it smaller or raise the limit with --max-pixels "
            f"(max_pixels in Python)."
        )


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened file before it is turned upright.

    Pillow's own size of a TIFF is that of the upright image, in its newer versions.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        return tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    return image.size


def orientation_of(image: Image.Image) -> int | None:
    """The EXIF orientation; metadata that cannot be read is ignored, as viewers do."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises anything on broken metadata
        return None
    return orientation if isinstance(orientation, int) else None


def _upright(image: Image.Image, orientation: int | None) -> Image.Image:
    transposition = None if orientation is None else _TRANSPOSITIONS.get(orientation)
    if transposition is None:
        return image
    upright = image.transpose(transposition)
    upright.format = image.format
    return upright


def name_of(source: object) -> str:
    """Name a source for people: its file, or what kind of object it is."""
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, Image.Image):
        filename = getattr(source, "filename", "")
        return str(filename) if filename else f"Pillow image ({source.mode})"
    return str(source)


def reason(error: Exception) -> str:
    """Say in a few words why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    # libheif's own sentences have lines.
    return " ".join(str(error).split()) or type(error).__name__
