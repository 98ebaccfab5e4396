"""The bands of TIFF images of which Pillow reads the header alone: many, deep or of floats.

A strip or tile with N bands of B bytes a sample holds the same bytes as one of a gray image whose
rows are N B times as long. So each is given the header of such an image, Pillow unpacks it, and
the samples are made of the bytes here.
"""

from __future__ import annotations

import io
import math
import operator
import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ImageFile, TiffImagePlugin

from piclip.errors import ImageError, UsageError

Bands: TypeAlias = tuple[int, ...]
"""Which bands are the colours, counted from 1: red, green and blue, or one that is gray."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_NO_DATA = 42113  # GDAL's
_GRAY, _RGB, _CMYK = 1, 2, 5  # photometric
_UNPACKED = 1
_PACKED = frozenset({5, 8, 32773, 32946, 34925, 50000})
"""LZW, deflate, PackBits and others that know bytes, not pixels."""
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3  # predictors
_KINDS = {1: "u", 2: "i", 3: "f"}
_MOST_BYTES = 2**31 - 1
_MOST_PACKED = 178_956_970  # as many pixels as Pillow takes for no attack
_TILE_PIXELS = 2**20


def check_bands(bands: Sequence[int]) -> Bands:
    """One or three numbers of bands (UsageError for others)."""
    try:
        chosen = tuple(map(operator.index, bands))
    except TypeError:
        chosen = ()
    if len(chosen) not in {1, 3} or min(chosen) < 1:
        raise UsageError(
            f"The bands are the numbers of red, green and blue, such as 4,3,2, or of one that is "
            f"gray, counted from 1, not {','.join(map(str, chosen)) or repr(bands)}."
        )
    return chosen


def to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Scale deep values, (H, W) or (H, W, 3), to 8 bits by the range that they use together.

    Of integers that is the smallest of 8, 10, 12, 14 and 16 bits that holds them, of floats of 1,
    255 and 65535; of others, and where some are negative, from the least to the greatest.
    """
    floats = values.dtype.kind == "f"
    deep = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if floats else values
    low, high = float(deep.min()), float(deep.max())
    # Cameras and scanners put 10 to 14 bits into files of 16, which else would be nearly black.
    depths = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
    fitting = [t for t in ((1.0, 255.0, 65535.0) if floats else depths) if low >= 0 and high <= t]
    if fitting:
        low, high = 0.0, fitting[0]
    factor = 255.0 / (high - low or 1.0)
    # Row by row, since the image in doubles is large.
    rows = (np.round((row.astype(np.float64) - low) * factor) for row in deep)
    return np.stack([row.astype(np.uint8) for row in rows])


def open_tiff(stream: Any, bands: Bands | None) -> ImageFile.ImageFile:  # noqa: ANN401
    """A TIFF of which only the header is read; a `BandedTiff` where its bands are to be read here.

    Raises whatever Pillow raises on a damaged file.
    """
    banded = BandedTiff(stream, "")
    if bands is None and banded.is_plain:
        try:
            stream.seek(0)
            return TiffImagePlugin.TiffImageFile(stream, "")
        except SyntaxError:  # a combination that Pillow does not know
            pass
    return banded


def is_deep(tiff: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether its colours have more than the 8 bits that Pillow reads of them."""
    return tiff.mode in {"RGB", "RGBX"} and max(tiff.tag_v2.get(_BITS, (1,))) > 8


class BandedTiff(TiffImagePlugin.TiffImageFile):
    """A TIFF whose header Pillow reads, and whose bands are read here."""

    def _setup(self) -> None:
        """What Pillow wants to know of a file before it loads any pixel."""
        self._size, self._mode = (self._whole(_WIDTH), self._whole(_HEIGHT)), "RGB"
        self.tile = []
        if not {_STRIPS, _TILES} & set(self.tag_v2):  # Pillow warns, and takes what it has
            raise ValueError("its header ends too early")

    @property
    def is_plain(self) -> bool:
        """Whether it says what its bands are."""
        samples, inks = self._whole(_SAMPLES, 1), self.tag_v2.get(_PHOTOMETRIC) == _CMYK
        alpha = self.tag_v2.get(_EXTRA, (0,))[0] in {1, 2}
        return samples <= (5 if inks else 4) and (samples != 2 or alpha)

    def samples(self, bands: Bands | None, name: str) -> npt.NDArray[Any]:
        """The values of some bands, neither turned nor scaled; 0 where nothing was measured.

        Those of ``bands``, or those that the header calls colours: (H, W) or (H, W, 3).

        Raises:
            ImageError: Which bands are colours is not said, or they are not there, or of a kind
                that is not read here.
            Exception: Whatever Pillow raises on a damaged file.
        """
        count, chosen = self._whole(_SAMPLES, 1), bands or self._told()
        if chosen is None:
            raise ImageError(
                f"{name}: the TIFF image has {count} bands, and which of them are gray or red, "
                f"green and blue is not known; say it, as in --bands 3,2,1 (bands=(3, 2, 1) in "
                f"Python)."
            )
        if max(chosen) > count:
            raise ImageError(
                f"{name}: the TIFF image has no band {max(chosen)} but {count} in all; choose "
                f"others, or leave it out."
            )
        kind = self._kind()
        width, height = self._whole(_WIDTH), self._whole(_HEIGHT)
        together = count if self.tag_v2.get(_PLANAR, 1) == 1 else 1
        if (
            kind is None
            or width * height * count * kind.itemsize > _MOST_BYTES
            or (
                self._is_packed and math.prod(self._piece) * together * kind.itemsize > _MOST_PACKED
            )
        ):
            raise ImageError(
                f"{name}: the bands of this TIFF image cannot be read here; save them with 8, 16 "
                f"or 32 bits, uncompressed or in tiles by deflate, and less than 2 GB."
            )
        index = [band - 1 for band in chosen]
        values = np.empty((height, width, len(index)), kind)
        if together == count:
            for top, left, piece in self._pieces(kind, count, 0):
                _lay(piece[:, :, index], values, top, left)
        else:
            for at, plane in enumerate(index):
                for top, left, piece in self._pieces(kind, 1, plane):
                    _lay(piece, values[:, :, at : at + 1], top, left)
        values[values == self._no_data()] = 0
        return values[:, :, 0] if len(index) == 1 else values

    def _no_data(self) -> float:
        """What stands for pixels that nothing was measured of; no number where nothing does."""
        try:
            return float(self.tag_v2.get(_NO_DATA, "nan"))
        except (TypeError, ValueError):
            return float("nan")

    def _told(self) -> Bands | None:
        """The bands that the header calls gray, or red, green and blue."""
        samples = self._whole(_SAMPLES, 1)
        if samples == 1:
            return (1,)
        return (1, 2, 3) if self.tag_v2.get(_PHOTOMETRIC) == _RGB and samples in {3, 4} else None

    def _kind(self) -> np.dtype[Any] | None:
        """Of the samples as they are stored; None where they are not read here."""
        tags = self.tag_v2
        bits, formats = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
        if len(bits) > 1 or len(formats) > 1 or tags.get(_COMPRESSION, 1) not in _PACKED | {1}:
            return None
        letter, size = _KINDS.get(formats.pop(), ""), bits.pop()
        known = letter and size in {8, 16, 32, 64} and (letter, size) != ("f", 8)
        order = "<" if tags.prefix[:2] == b"II" else ">"
        return np.dtype(f"{order}{letter}{size // 8}") if known else None

    @property
    def _piece(self) -> tuple[int, int]:
        """(height, width) of its strips or tiles."""
        if _TILES in self.tag_v2:
            return self._whole(_TILE_HEIGHT), self._whole(_TILE_WIDTH)
        height = self._whole(_HEIGHT)
        return min(self._whole(_ROWS, height), height), self._whole(_WIDTH)

    @property
    def _is_packed(self) -> bool:
        """Whether Pillow must unpack it: compressed, or with the bits of its bytes turned round."""
        return (self.tag_v2.get(_COMPRESSION, 1), self.tag_v2.get(_FILL_ORDER, 1)) != (1, 1)

    def _pieces(
        self, kind: np.dtype[Any], count: int, plane: int
    ) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
        """The strips or tiles of a plane: where each begins, and its samples (h, w, count)."""
        tags, width, height = self.tag_v2, self._whole(_WIDTH), self._whole(_HEIGHT)
        tiled, (down, across) = _TILES in tags, self._piece
        if across * down > max(width * height, _TILE_PIXELS):  # a few bytes could stand for it
            raise ValueError("its tiles are larger than the image")
        places = tags[_TILES if tiled else _STRIPS]
        sizes = tags[_TILE_BYTES if tiled else _STRIP_BYTES]
        tops, lefts = range(0, height, down), range(0, width, across)
        stream = self.fp
        assert stream is not None
        # One after the other: a few bytes could say that there are millions.
        grid = ((top, left) for top in tops for left in lefts)
        for number, (top, left) in enumerate(grid, start=plane * len(tops) * len(lefts)):
            rows = down if tiled else min(down, height - top)
            stream.seek(places[number])
            packed = stream.read(sizes[number])
            yield top, left, self._unpacked(packed, kind, (rows, across, count))

    def _unpacked(
        self, packed: bytes, kind: np.dtype[Any], shape: tuple[int, int, int]
    ) -> npt.NDArray[Any]:
        """The samples of a strip or tile."""
        tags, (rows, across, count) = self.tag_v2, shape
        packing, predictor = tags.get(_COMPRESSION, 1), tags.get(_PREDICTOR, 1)
        columns = across * count * kind.itemsize
        if packing == _UNPACKED and len(packed) < rows * columns:
            raise OSError("it ends too early")
        if self._is_packed:
            gray = _gray_tiff(packed, (rows, columns), packing, tags.get(_FILL_ORDER, 1))
            with TiffImagePlugin.TiffImageFile(io.BytesIO(gray)) as image:
                stored = np.asarray(image)
        else:
            stored = np.frombuffer(packed, np.uint8, rows * columns).reshape(rows, columns)
        if predictor == _FLOAT_DIFFERENCES:  # of bytes; the highest of a row's samples come first
            summed = stored.reshape(rows, -1, count).cumsum(axis=1, dtype=np.uint8)
            stored = np.stack(np.split(summed.reshape(rows, -1), kind.itemsize, axis=1), axis=-1)
            kind = kind.newbyteorder(">")
        elif predictor == _DIFFERENCES:  # of samples, taken as whole numbers that start over
            whole = np.dtype(f"u{kind.itemsize}").newbyteorder(kind.byteorder)
            steps = stored.view(whole).reshape(shape)
            stored = steps.cumsum(axis=1, dtype=whole.newbyteorder("=")).astype(whole)
        return stored.view(kind).reshape(shape)

    def _whole(self, tag: int, default: int | None = None) -> int:
        value = self.tag_v2.get(tag, default)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"its tag {tag} is no number of pixels or bands")
        return value


def _lay(piece: npt.NDArray[Any], values: npt.NDArray[Any], top: int, left: int) -> None:
    """Put a piece at its place; tiles may reach over the image's right and lower side."""
    place = values[top : top + piece.shape[0], left : left + piece.shape[1]]
    place[:] = piece[: place.shape[0], : place.shape[1]]


def _gray_tiff(packed: bytes, size: tuple[int, int], packing: int, fill_order: int) -> bytes:
    """A TIFF of 8 bits gray of one strip."""
    rows, columns = size
    tags = {
        _WIDTH: columns,
        _HEIGHT: rows,
        _BITS: 8,
        _COMPRESSION: packing,
        _PHOTOMETRIC: _GRAY,
        _FILL_ORDER: fill_order,
        _STRIPS: 0,
        _SAMPLES: 1,
        _ROWS: rows,
        _STRIP_BYTES: len(packed),
    }
    start = 8 + 2 + 12 * len(tags) + 4
    tags[_STRIPS] = start
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
