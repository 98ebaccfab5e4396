"""What ``piclip demo`` segments, and how every step of it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.app import example_photos
from piclip.datasets.scenes import make_scene
from piclip.errors import UsageError
from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
from piclip.io.images import read_image
from piclip.io.outputs import write_png
from piclip.results import Priors
from piclip.training_free.scorer import TrainingFreeScorer

CLASS_NAME = "cat"
_SEED = 2405  # used nowhere else; the first scenes are taken as they come
_WITH, _WITHOUT = 4, 2  # queries that hold the class, and that do not


def segment_scenes(folder: Path) -> tuple[Path, list[EpisodeRow]]:
    """Draw scenes into a folder and segment them from the first one, with the built-in model.

    Returns:
        The figure's file, and a row of it for each query; those that hold the class come first.
    """
    scenes = [make_scene(_SEED, index, include=CLASS_NAME) for index in range(1 + _WITH)]
    others = (make_scene(_SEED, index) for index in count(1 + _WITH))
    scenes += islice((scene for scene in others if not scene.mask(CLASS_NAME).any()), _WITHOUT)
    images = [Image.fromarray(scene.image) for scene in scenes]
    truths = [scene.mask(CLASS_NAME) for scene in scenes]
    names = ["support", *(f"query_{number}" for number in range(1, len(scenes)))]
    paths = [folder / "images" / f"{name}.png" for name in names]
    for path, image, truth in zip(paths, images, truths, strict=True):
        write_png(image, path)
        write_png(truth, folder / "truth" / path.name)
    segmenter = FewShotSegmenter.from_pretrained("builtin", device="cpu")
    segmenter.fit(Support(images[0], truths[0]), name=CLASS_NAME)
    rows = _segment(segmenter, images[0], truths[0], paths[1:], truths[1:], folder)
    return save_figure(episodes_figure(rows), folder / "demo.png"), rows


def segment_photos(
    folder: Path, *, model: str, visual: str | None
) -> tuple[Path, list[EpisodeRow]]:
    """Segment the photographs of cheetahs that gradio ships from one of them, as `segment_scenes`.

    Raises:
        UsageError: gradio is not installed, has no such photographs, or the model is a decoder.
    """
    photos = example_photos.shipped_photos()
    image = read_image(photos[example_photos.LABELLED])
    mask = example_photos.painted_mask(image.size)
    segmenter = FewShotSegmenter.from_pretrained(model, visual=visual)
    segmenter.fit(Support(image, mask), name=example_photos.CLASS_NAME)
    queries = [photos[name] for name in example_photos.QUERIES]
    rows = _segment(segmenter, image, mask, queries, [None] * len(queries), folder)
    return save_figure(episodes_figure(rows), folder / "photos.png"), rows


def _segment(
    segmenter: FewShotSegmenter,
    image: Image.Image,
    mask: npt.NDArray[np.bool_],
    queries: Sequence[Path],
    truths: Sequence[npt.NDArray[np.bool_] | None],
    folder: Path,
) -> list[EpisodeRow]:
    """Segment queries, write masks and overlays, and compute the published priors beside."""
    published = _published_priors(segmenter, Support(image, mask), queries)
    results = segmenter.predict(queries)
    for result in results:
        result.save(folder / "masks", overwrite=True)
        write_png(result.overlay(), folder / "overlays" / f"{result.name}.png")
    return [
        EpisodeRow(image, mask, result, truth, published=priors)
        for result, truth, priors in zip(results, truths, published, strict=True)
    ]


def _published_priors(
    segmenter: FewShotSegmenter, support: Support, queries: Sequence[Path]
) -> list[Priors | None]:
    """The published priors of the queries; None of a model that reads no names."""
    scorer = segmenter.scorer
    if not isinstance(scorer, TrainingFreeScorer):
        raise UsageError("The photographs are segmented without training; give a CLIP or a ViT.")
    if scorer.encoder is None:
        return [None] * len(queries)
    published = FewShotSegmenter(TrainingFreeScorer(scorer.encoder, evidence="published"))
    (name,) = segmenter.classes
    return [found.priors for found in published.fit(support, name=name).predict(queries)]
