"""The photographs of ``piclip demo --photos``: those of cheetahs that the gradio package ships."""

from __future__ import annotations

from pathlib import Path

from piclip import FewShotSegmenter, Segmentation, Support
from piclip.app.example_photos import (
    CLASS_NAME,
    LABELLED,
    QUERIES,
    painted_mask,
    shipped_photos,
)
from piclip.errors import UsageError
from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
from piclip.io.images import read_image
from piclip.io.outputs import write_png
from piclip.results import Priors
from piclip.training_free.scorer import TrainingFreeScorer


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
    photos = shipped_photos()
    image = read_image(photos[LABELLED])
    mask = painted_mask(image.size)
    segmenter = FewShotSegmenter.from_pretrained(model, visual=visual)
    segmenter.fit(Support(image, mask), name=CLASS_NAME)
    queries = [photos[name] for name in QUERIES]
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
