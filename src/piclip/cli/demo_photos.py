"""The photographs of ``piclip demo --photos``: those of cheetahs that the gradio package ships."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from piclip import FewShotSegmenter, Segmentation, Support
from piclip.errors import UsageError
from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
from piclip.io.images import read_image
from piclip.io.outputs import write_png
from piclip.results import Priors
from piclip.training_free.scorer import TrainingFreeScorer

CLASS_NAME = "cheetah"
_LABELLED = "cheetah1.jpg"
_QUERIES = ("cheetah.jpg", "cheetah2.jpg", "lion.jpg", "tower.jpg")  # the last two show none

# The outline of the cheetah in the labelled photograph, painted by hand: x and y in percent.
_OUTLINE = (
    *((9.5, 20), (11, 15.5), (16, 12.8), (22, 13), (29, 17), (34, 15), (42, 13), (52, 12.5)),
    *((60, 14.5), (67, 17.5), (71, 21), (75, 17), (80, 15), (85, 17), (87.5, 21), (86, 28)),
    *((83, 36), (82.5, 46), (80.5, 54), (80, 63), (82, 69), (89, 80), (93, 93), (95.5, 100)),
    *((19.5, 100), (20.5, 90), (24, 80), (22, 72), (20, 66), (18.5, 56), (17, 48), (17.5, 40)),
    *((13, 33), (10, 26)),
)


def segment_photos(
    folder: Path, *, model: str, visual: str | None
) -> tuple[Path, list[Segmentation]]:
    """Segment the photographs from one of them, and draw every step.

    Args:
        folder: Takes masks, overlays and the figure.
        model: As for `FewShotSegmenter.from_pretrained`, like ``visual``.
        visual: Another image tower, or None.

    Returns:
        The figure's file, and the results.

    Raises:
        UsageError: gradio is not installed, has no such photographs, or the model is a decoder.
        ModelError: The model cannot be had.
    """
    photos = _photos()
    image = read_image(photos[_LABELLED])
    mask = painted_mask(image.size)
    segmenter = FewShotSegmenter.from_pretrained(model, visual=visual)
    segmenter.fit(Support(image, mask), name=CLASS_NAME)
    queries = [photos[name] for name in _QUERIES]
    results = segmenter.predict(queries)
    for result in results:
        result.save(folder / "masks", overwrite=True)
        write_png(result.overlay(), folder / "overlays" / f"{result.name}.png")
    published = _published_priors(segmenter, Support(image, mask), queries)
    rows = [
        EpisodeRow(image, mask, result, published=priors)
        for result, priors in zip(results, published, strict=True)
    ]
    return save_figure(episodes_figure(rows), folder / "photos.png"), results


def painted_mask(size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask of the labelled photograph, bool (H, W), for its (width, height)."""
    drawn = Image.new("1", size)
    corners = [(x * size[0] / 100, y * size[1] / 100) for x, y in _OUTLINE]
    ImageDraw.Draw(drawn).polygon(corners, fill=1)
    return np.asarray(drawn)


def _photos() -> dict[str, Path]:
    """The photographs by their names."""
    spec = find_spec("gradio")
    if spec is None or spec.origin is None:
        raise UsageError(
            "The photographs are those of the gradio package, which is not installed; get it with "
            "pip install 'piclip[app]', or leave --photos out."
        )
    there = {path.name: path for path in Path(spec.origin).parent.rglob("*.jpg")}
    names = (_LABELLED, *_QUERIES)
    if missing := [name for name in names if name not in there]:
        raise UsageError(
            f"The gradio package that is installed holds no photograph {missing[0]}; install "
            f"version 6 of it, or leave --photos out."
        )
    return {name: there[name] for name in names}


def _published_priors(
    segmenter: FewShotSegmenter, support: Support, queries: list[Path]
) -> list[Priors | None]:
    """The published priors of the queries; None of a model that reads no names."""
    scorer = segmenter.scorer
    if not isinstance(scorer, TrainingFreeScorer):
        raise UsageError("The photographs are segmented without training; give a CLIP or a ViT.")
    if scorer.encoder is None:
        return [None] * len(queries)
    published = FewShotSegmenter(TrainingFreeScorer(scorer.encoder, evidence="published"))
    return [found.priors for found in published.fit(support, name=CLASS_NAME).predict(queries)]
