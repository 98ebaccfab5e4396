"""Read images and masks from files, Pillow images and arrays, at the size a viewer shows.

Every awkward but legal file works: EXIF orientation, palettes, bilevel, 16-bit, alpha, CMYK,
animations (first frame). Everything else ends in one sentence that names the file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import ImageError, MaskError
from piclip.io.bands import Bands, check_bands, to_8_bits
from piclip.io.decoding import (
    ImageSource,
    check_pixels,
    decode,
    name_of,
    opened,
    orientation_of,
    reason,
    stored_size,
)

MAX_PIXELS = 50_000_000
"""Images with more pixels than this are refused before they are decoded."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
    | {".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
"""Of the files that are taken for images in a folder."""
UNREAD = frozenset({".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg"})
"""Of pictures that cannot be read here, or only with an extra."""
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})
IGNORE = 255
"""Value of pixels in a class map that count neither for nor against a class."""
_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""


def read_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, bands: Bands | None = None
) -> Image.Image:
    """Read an image as a new RGB one without metadata, upright and of the size that a viewer shows.

    Transparency is laid over white; deep images are scaled to 8 bits, not clipped (by the
    smallest range that holds them: of integers that of 8, 10, 12, 14 or 16 bits, of floats 1, 255
    or 65535; otherwise from their least to their greatest value); of an animation the first frame
    counts.

    Args:
        source: A file, a Pillow image, or an array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``
            of uint8, bool, uint16 (full range) or floats in [0, 1].
        max_pixels: Larger images are refused, files before they are decoded.
        bands: Of a TIFF file the bands to take, counted from 1: three for red, green and blue, or
            one that is gray; by default those that the file says are its colours.

    Raises:
        ImageError: The source is missing, not an image, truncated, too large, a TIFF whose bands
            are not known or not there, or an array of another shape or type.
        UsageError: ``bands`` are neither one nor three numbers.
    """
    if bands is not None:
        bands = check_bands(bands)
    if isinstance(source, np.ndarray):
        rgb = _to_rgb(_from_array(source, max_pixels))
    else:
        rgb = _to_rgb(decode(source, max_pixels, colours=True, bands=bands))
    rgb.info = {}  # the orientation is applied: nobody may apply it again
    return rgb


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as a viewer shows it, read from its header (ImageError)."""
    with opened(path, MAX_PIXELS) as image:
        width, height = stored_size(image)
        return (width, height) if orientation_of(image) in _SIDEWAYS else (height, width)


def read_mask(
    source: ImageSource,
    *,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    least: int = 1,
    allow_empty: bool = False,
) -> npt.NDArray[np.bool_]:
    """Read the mask of one object class, bool (H, W).

    What counts as object depends on the kind of file:

    - with fully transparent pixels: every other pixel; but where the visible ones are black and
      one colour, as in a mask with a cut-out frame, those of that colour. Other transparency says
      nothing;
    - palette: every pixel that is not black (where no pixel is black: not index 0); index 255
      is VOC's "ignore" and does not count if another index marks an object;
    - JPEG and WebP: values of at least 128, since compression smears small ones over the
      background;
    - gray with the values 1 and 255 and no others but 0: 1, since 255 then is "ignore";
    - anything else, arrays included: every value but zero, or from ``least`` on. Where no pixel
      is zero but values differ, it is not clear what the background is: a MaskError.

    Args:
        source: A file, a Pillow image, or an array ``(H, W)`` of bool or integers.
        size: Required (height, width); None accepts any.
        max_pixels: As in `read_image`.
        least: Least value of an object pixel in a gray or colour file of 8 bits; 128 where the
            borders are anti-aliased.
        allow_empty: Take a mask without object pixels too.

    Raises:
        ImageError: The file cannot be read as an image.
        MaskError: The mask has another size or no object pixel, or it is not clear what its
            background is.
    """
    name = name_of(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "bui":
            raise MaskError(
                f"{name}: a mask array must have the shape (H, W) and be bool or integer; compare "
                f"it with a threshold or pick one channel."
            )
        check_pixels(name, source.shape[1], source.shape[0], max_pixels)
        values, mask, lossy = source, np.asarray(source != 0), False
    else:
        image = decode(source, max_pixels)
        values, mask = np.asarray(image), _object_pixels(image, least)
        lossy = image.format in _LOSSY_FORMATS
    if size is not None and mask.shape != tuple(size):
        raise MaskError(
            f"{name}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels (width x height) but "
            f"its image is {size[1]} x {size[0]}; give the mask the size of its image."
        )
    if least == 1 and not lossy and mask.all():
        found = np.unique(values)
        if len(found) > 1:
            raise MaskError(
                f"{name}: no pixel of the mask is 0, the background (it holds the values "
                f"{_listed(found)}); make the background 0, or read a map of classes "
                f"with piclip annotate --format voc."
            )
    if not allow_empty and not mask.any():
        raise MaskError(
            f"{name}: the mask has no object pixel (it holds the values {_listed(values)}); mark "
            f"the object with 255 on a background of 0, or read a map of classes with piclip "
            f"annotate --format voc."
        )
    return mask


def _listed(values: npt.NDArray[Any]) -> str:
    return ", ".join(str(v) for v in np.unique(values)[:12])


def is_image_name(name: str) -> bool:
    """Whether a file's suffix is one of an image, read here or not."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of a million
    return suffix in SUFFIXES or suffix in UNREAD


def stem_of(path: str) -> str:
    """A file's name without its suffix, which ``..png`` has none of; quicker than a Path's stem."""
    return os.path.splitext(os.path.basename(path))[0]  # noqa: PTH119, PTH122


def list_images(source: str | Path) -> list[Path]:
    """List the image files of a folder (not of its subfolders) by name, or the one file given.

    Files of a folder are told by their suffix; hidden ones are left out. A single file is taken as
    it is. What cannot be read here (HEIC without the extra [heif], JPEG XL, JPEG 2000, SVG, links
    to nowhere) is listed, too: whoever reads it says why not.

    Raises:
        ImageError: Nothing is there, the folder cannot be read, or it has no images.
    """
    path = Path(source)
    try:
        if path.is_file():
            return [path]
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if _is_image(entry))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {reason(error)}; check the path.") from error
    if not names:
        raise ImageError(
            f"{path}: the folder has no images (subfolders are not searched); put files such as "
            f".jpg, .png, .webp or .tif there or give another folder."
        )
    return [path / name for name in names]


def _is_image(entry: os.DirEntry[str]) -> bool:
    if not is_image_name(entry.name) or entry.name.startswith("."):
        return False
    with suppress(OSError):  # a link in a circle: whoever reads it says so, as of one to nowhere
        return not entry.is_dir()
    return True


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_array(array: npt.NDArray[Any], max_pixels: int) -> Image.Image:
    name = name_of(array)
    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise ImageError(
            f"{name}: an image array must have the shape (H, W), (H, W, 3) or (H, W, 4); "
            f"move the channels last and give one image at a time."
        )
    check_pixels(name, pixels.shape[1], pixels.shape[0], max_pixels)
    if pixels.dtype == np.bool_:
        scaled = pixels * np.uint8(255)
    elif pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of any byte order
        scaled = np.round(pixels / 257.0)
    elif pixels.dtype.kind == "f" and bool(np.all((pixels >= 0) & (pixels <= 1))):
        scaled = np.round(pixels * 255.0)
    elif pixels.dtype == np.uint8:
        scaled = pixels
    else:
        raise ImageError(
            f"{name}: an image array must be uint8, bool, uint16 or floats between 0 and 1; "
            f"scale it and convert it to uint8."
        )
    return Image.fromarray(np.ascontiguousarray(scaled, dtype=np.uint8))


def _object_pixels(image: Image.Image, least: int) -> npt.NDArray[np.bool_]:
    """Decide what a binary mask file marks; the rules are those of `read_mask`."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(np.nan_to_num(np.asarray(image)) != 0)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        visible = rgba[:, :, 3] > 0
        if visible.any() and not visible.all():
            shown = np.where(visible, rgba[:, :, :3].max(axis=2), 0)
            of_one_colour = len(np.unique(shown[visible])) == 2 and shown[visible].min() == 0
            return shown > 0 if of_one_colour else visible
    colours = np.asarray(image.convert("RGB")).max(axis=2)
    if image.mode == "P":
        indices, black = np.asarray(image), colours == 0
        marked = ~black if black.any() else indices != 0
        labelled = marked & (indices != IGNORE)
        return np.asarray(labelled if labelled.any() else marked)
    if image.format in _LOSSY_FORMATS:
        return np.asarray(colours >= 128)
    present = set(np.flatnonzero(np.bincount(colours.ravel(), minlength=IGNORE + 1)).tolist())
    if least == 1 and {1, IGNORE} <= present <= {0, 1, IGNORE}:
        return np.asarray(colours == 1)
    return np.asarray(colours >= least)
