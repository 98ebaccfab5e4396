"""The canvas to paint on: what it takes, and how its failures in the browser become messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from piclip.errors import ImageError, UsageError
from piclip.io.decoding import decode

_PAINT = ("#d55e00", 0.6)
_MOST_LAYERS = 1  # the page offers no others

LISTEN = """() => window.addEventListener("unhandledrejection", ({reason}) => {
  const press = (id) => document.getElementById(id)?.click();
  if (String(reason?.message).includes("413")) press("canvas-too-large");
  else if (reason?.name === "InvalidStateError") press("canvas-not-opened");
})"""
"""Runs when the page is loaded. The canvas reads files and sends PNGs by itself and says nothing
when that fails; a press of a hidden button then tells the person."""


def make_canvas(pixels: int, told: Callable[..., Any]) -> gr.ImageEditor:
    """Make the canvas; it gives the image and the layers that are painted on it.

    Args:
        pixels: Images and layers with more pixels are refused before they are decoded.
        told: Turns errors into messages on the page.

    Returns:
        An editor whose value is None or has ``background``, a Pillow image, and ``layers``, uint8
        arrays (H, W, 4).
    """
    canvas = gr.ImageEditor(
        label="Paint over the object", show_label=False, sources=("upload", "clipboard"),
        layers=False, transforms=(), height=400, buttons=[], elem_id="editor",
        brush=gr.Brush(colors=[_PAINT], default_color=_PAINT, color_mode="fixed"),
        placeholder="Drop an image here\nor click to choose one",
    )  # fmt: skip

    def preprocess(sent: Any) -> dict[str, Any] | None:  # noqa: ANN401
        return read_canvas(sent, pixels)

    canvas.preprocess = told(preprocess)
    # Takes any number of pictures into memory, for listeners to every stroke; there is none here.
    canvas.accept_blobs = None
    return canvas


def read_canvas(sent: Any, pixels: int) -> dict[str, Any] | None:  # noqa: ANN401
    """Read the files of a canvas; gradio has checked that they are uploads of a legal size.

    Args:
        sent: gradio's ``EditorData``, or None.
        pixels: Images and layers with more pixels are refused before they are decoded.

    Returns:
        As of `make_canvas`; None for an empty canvas.

    Raises:
        ImageError: A file is no image or has too many pixels.
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


def _decode(path: str, pixels: int) -> Any:  # noqa: ANN401
    try:
        return decode(Path(path), pixels)
    except ImageError as error:
        raise ImageError(str(error).replace(path, "The painted image")) from error


def too_large() -> None:
    """Tell that the browser could not send the canvas."""
    raise UsageError(
        "As PNG, the painted image is larger than this page takes; use a smaller copy of it, or "
        "start the page with a larger --max-upload-mb."
    )


def not_opened() -> None:
    """Tell that the browser could not show an image."""
    raise ImageError(
        "This browser cannot open that file as an image; convert it to PNG or JPEG, or upload it "
        "with its mask."
    )
