"""``piclip demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import JsonOption, examples

EXAMPLES = examples("piclip demo", "piclip demo somewhere/else --json")
CLASS_NAME = "cat"
_SEED = 2405  # used nowhere else; the first scenes are taken as they come
_NAMES = ("support", *(f"query_{number}" for number in range(1, 7)))


def demo(
    out: Annotated[Path, typer.Argument(help="The folder to fill.")] = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Segment a few generated scenes with the built-in model: offline, in seconds.

    Draws a labelled scene and six others, segments them from the one labelled example, and
    writes images, masks, overlays and one figure with every step.
    """
    from statistics import fmean

    from piclip.cli.console import people, print_json, print_table

    with people().status("Segmenting"):
        figure, ious = _segment_scenes(out)
    mean = fmean(ious.values())
    rows = [(file, f"{100 * iou:.1f} %") for file, iou in (*ious.items(), ("mean", mean))]
    print_table(f"Masks of '{CLASS_NAME}' from one labelled image", ("image", "IoU"), rows)
    people().print(f"Every step is drawn in {figure}; masks and overlays lie beside it.")
    if json:
        print_json(
            {
                "folder": str(out),
                "figure": str(figure),
                "class": CLASS_NAME,
                "images": [{"file": f, "iou": round(100 * iou, 2)} for f, iou in ious.items()],
                "mean_iou": round(100 * mean, 2),
            }
        )


def _segment_scenes(folder: Path) -> tuple[Path, dict[str, float]]:
    """Fill the folder; gives back the figure's file and each query's IoU, 0 to 1, by file name."""
    from PIL import Image

    from piclip import FewShotSegmenter, Support
    from piclip.datasets.scenes import make_scene
    from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
    from piclip.io.outputs import write_png

    scenes = [make_scene(_SEED, index, include=CLASS_NAME) for index in range(len(_NAMES))]
    images = [Image.fromarray(scene.image) for scene in scenes]
    truths = [scene.mask(CLASS_NAME) for scene in scenes]
    paths = [folder / "images" / f"{name}.png" for name in _NAMES]
    for path, image, truth in zip(paths, images, truths, strict=True):
        write_png(image, path)
        write_png(truth, folder / "truth" / path.name)

    segmenter = FewShotSegmenter.from_pretrained("builtin", device="cpu")
    segmenter.fit(Support(images[0], truths[0]), name=CLASS_NAME)
    results = segmenter.predict(paths[1:])
    for result in results:
        result.save(folder / "masks", overwrite=True)
        write_png(result.overlay(), folder / "overlays" / f"{result.name}.png")

    rows = [
        EpisodeRow(images[0], truths[0], result, truth)
        for result, truth in zip(results, truths[1:], strict=True)
    ]
    figure = save_figure(episodes_figure(rows), folder / "demo.png")
    return figure, {path.name: row.iou or 0.0 for path, row in zip(paths[1:], rows, strict=True)}
