"""The photographs of cheetahs that the gradio package ships; one is labelled here, none copied."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from piclip.app.answers import fit_picture
from piclip.app.session import AppSession
from piclip.errors import UsageError
from piclip.io.images import read_image

CLASS_NAME = "cheetah"
LABELLED = "cheetah1.jpg"
QUERIES = ("cheetah.jpg", "cheetah2.jpg", "lion.jpg", "tower.jpg")  # the last two show none
_NAMES = (LABELLED, *QUERIES)
_PAPER_PIXELS = 512

# The outline of the cheetah in the labelled photograph, painted by hand: x and y in percent.
_OUTLINE = (
    *((9.5, 20), (11, 15.5), (16, 12.8), (22, 13), (29, 17), (34, 15), (42, 13), (52, 12.5)),
    *((60, 14.5), (67, 17.5), (71, 21), (75, 17), (80, 15), (85, 17), (87.5, 21), (86, 28)),
    *((83, 36), (82.5, 46), (80.5, 54), (80, 63), (82, 69), (89, 80), (93, 93), (95.5, 100)),
    *((19.5, 100), (20.5, 90), (24, 80), (22, 72), (20, 66), (18.5, 56), (17, 48), (17.5, 40)),
    *((13, 33), (10, 26)),
)


def missing_photo() -> str | None:
    """Name of a photograph that no installed gradio holds; None where all are there."""
    photos = _found()
    return next((name for name in _NAMES if name not in photos), None)


def shipped_photos() -> dict[str, Path]:
    """The labelled photograph and the queries by name (UsageError if gradio has not all)."""
    if missing := missing_photo():
        raise UsageError(
            f"There is no photograph {missing}, which comes with version 6 of the gradio package; "
            f"install it with pip install 'piclip[app]'."
        )
    return {name: _found()[name] for name in _NAMES}


def _found() -> dict[str, Path]:
    spec = find_spec("gradio")
    if spec is None or spec.origin is None:
        return {}
    folders = (Path(spec.origin).parent / name for name in ("media_assets", "test_data"))
    return {path.name: path for folder in folders for path in folder.rglob("*.jpg")}


def painted_mask(size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of the labelled photograph, bool (H, W), for its (width, height)."""
    drawn = Image.new("1", size)
    corners = [(x * size[0] / 100, y * size[1] / 100) for x, y in _OUTLINE]
    ImageDraw.Draw(drawn).polygon(corners, fill=1)
    return np.asarray(drawn)


def load_photos(session: AppSession) -> Image.Image:
    """Fill a session with the photographs, in place of what it had; gives a cheetah to paint on."""
    photos = shipped_photos()
    session.clear()
    image = read_image(photos[LABELLED])
    session.add_example(image, painted_mask(image.size), CLASS_NAME)
    for name in QUERIES:
        session.add_query(photos[name])
    return fit_picture(read_image(photos[QUERIES[0]]), _PAPER_PIXELS)
