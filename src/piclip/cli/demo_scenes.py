"""The work of ``piclip demo``: draw scenes, segment them, compare with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.datasets.scenes import make_scene
from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
from piclip.io.outputs import write_png

CLASS_NAME = "cat"
_SEED = 2405  # used nowhere else; the first scenes are taken as they come
_QUERIES = 6


@dataclass(frozen=True)
class DemoOutcome:
    """What a demonstration made.

    Attributes:
        folder: Where everything lies.
        figure: The figure with one row per query.
        ious: File name of each query to its intersection over union, 0 to 1.
    """

    folder: Path
    figure: Path
    ious: dict[str, float]

    @property
    def mean_iou(self) -> float:
        """Mean over the queries, 0 to 1."""
        return fmean(self.ious.values())

    def as_json(self) -> dict[str, Any]:
        """The same as plain data; IoU in percent."""
        return {
            "folder": str(self.folder),
            "figure": str(self.figure),
            "class": CLASS_NAME,
            "images": [{"file": f, "iou": round(100 * iou, 2)} for f, iou in self.ious.items()],
            "mean_iou": round(100 * self.mean_iou, 2),
        }


def run_demo(folder: Path) -> DemoOutcome:
    """Draw one labelled scene and six others, segment these, and write everything.

    Args:
        folder: Made if need be; files of an earlier demonstration are replaced.

    Raises:
        OutputError: A file cannot be written.
        ModelError: The built-in model is missing.
    """
    scenes = [make_scene(_SEED, index, include=CLASS_NAME) for index in range(1 + _QUERIES)]
    images = [Image.fromarray(scene.image) for scene in scenes]
    truths = [scene.mask(CLASS_NAME) for scene in scenes]
    names = ["support", *(f"query_{number}" for number in range(1, 1 + _QUERIES))]
    paths = [
        write_png(image, folder / "images" / f"{name}.png")
        for name, image in zip(names, images, strict=True)
    ]
    for name, truth in zip(names, truths, strict=True):
        write_png(truth, folder / "truth" / f"{name}.png")

    segmenter = FewShotSegmenter.from_pretrained("builtin", device="cpu")
    segmenter.fit([Support(images[0], truths[0])], name=CLASS_NAME)
    results = segmenter.predict(paths[1:])
    for result in results:
        result.save(folder / "masks", overwrite=True)
        write_png(result.overlay(), folder / "overlays" / f"{result.name}.png")

    rows = [
        EpisodeRow(images[0], truths[0], result, truth)
        for result, truth in zip(results, truths[1:], strict=True)
    ]
    figure = save_figure(episodes_figure(rows), folder / "demo.png")
    ious = {path.name: row.iou or 0.0 for path, row in zip(paths[1:], rows, strict=True)}
    return DemoOutcome(folder, figure, ious)
