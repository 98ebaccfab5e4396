"""The canvas to paint on: what it sends, and how its failures in the browser become messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.io.decoding import decode

_MOST_LAYERS = 1  # the page offers no others
_PAINTED = 64  # least opacity of paint; the brush leaves about 150, its soft border less

FAILURES = {
    "canvas-too-large": "As PNG, the painted image is larger than this page takes; use a smaller "
    "copy of it, or start the page with a larger --max-upload-mb.",
    "canvas-not-opened": "This browser cannot open that file as an image; convert it to PNG or "
    "JPEG, or upload it with its mask.",
}
"""What is told when the hidden button of a name is pressed."""

LISTEN = """() => window.addEventListener("unhandledrejection", ({reason}) => {
  const press = (id) => document.getElementById(id)?.click();
  if (String(reason?.message).includes("413")) press("canvas-too-large");
  else if (reason?.name === "InvalidStateError") press("canvas-not-opened");
})"""
"""Runs when the page is loaded. The canvas reads files and sends PNGs by itself and says nothing
when that fails; a press of a button of ``FAILURES`` then tells the person."""


def read_canvas(sent: Any, pixels: int) -> dict[str, Any] | None:  # noqa: ANN401
    """Read gradio's ``EditorData``; gradio has checked that files are uploads of a legal size.

    Gives ``background``, a Pillow image, and ``layers``, uint8 arrays (H, W, 4); None for an empty
    canvas.

    Raises:
        ImageError: A file is no image, or has too many pixels, which are not decoded.
        UsageError: There are layers that the page does not offer.
    """
    if sent is None or sent.background is None:
        return None
    if len(sent.layers) > _MOST_LAYERS:
        raise UsageError(f"The canvas has {len(sent.layers)} layers; paint on one only.")
    background, *layers = (_decode(file.path, pixels) for file in (sent.background, *sent.layers))
    return {
        "background": background,
        "layers": [np.asarray(layer.convert("RGBA")) for layer in layers],
    }


def _decode(path: str, pixels: int) -> Image.Image:
    try:
        return decode(Path(path), pixels)
    except ImageError as error:
        raise ImageError(str(error).replace(path, "The painted image")) from error


def painted_mask(layers: Sequence[npt.NDArray[Any]], size: tuple[int, int]) -> Image.Image:
    """Where anything was painted, 0 and 255, mode L (MaskError if nowhere).

    Layers are RGBA, uint8 (H, W, 4), of the image's (height, width).
    """
    painted = np.zeros(size, dtype=bool)
    for layer in layers:
        if layer.shape == (*size, 4):
            painted |= layer[:, :, 3] >= _PAINTED
    if not painted.any():
        raise MaskError("Nothing is painted yet; paint over the object with the brush.")
    return Image.fromarray(painted * np.uint8(255))
