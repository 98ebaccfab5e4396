"""``piclip demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import DEFAULT_MODEL, JsonOption, VisualOption, examples
from piclip.errors import UsageError

EXAMPLES = examples(
    "piclip demo",
    "piclip demo somewhere/else --json",
    "piclip demo photos --photos --visual facebook/dinov2-small",
)
CLASS_NAME = "cat"
_SEED = 2405  # used nowhere else; the first scenes are taken as they come
_WITH, _WITHOUT = 4, 2  # queries that hold the class, and that do not
_NAMES = ("support", *(f"query_{number}" for number in range(1, 1 + _WITH + _WITHOUT)))


def demo(
    out: Annotated[Path, typer.Argument(help="The folder to fill.")] = Path("demo"),
    photos: Annotated[
        bool,
        typer.Option(
            "--photos",
            help="Segment photographs of cheetahs instead, which come with gradio (piclip[app]).",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"With --photos: hub name or folder of a CLIP or another ViT. [default: "
            f"{DEFAULT_MODEL}]",
        ),
    ] = None,
    visual: VisualOption = None,
    json: JsonOption = False,
) -> None:
    """Segment a few generated scenes with the built-in model: offline, in seconds.

    Draws a labelled scene and six others, two of them without the class, none of them chosen;
    segments them from the one labelled example, and writes images, masks, overlays and one figure
    with every step.

    With --photos, segments two photographs of cheetahs, and two without any, from a third one.
    """
    from statistics import fmean

    if photos:
        _show_photos(out, model or DEFAULT_MODEL, visual, json=json)
        return
    if model is not None or visual is not None:
        raise UsageError(
            "The scenes are segmented with the built-in model; add --photos to choose another one."
        )
    from piclip.cli.console import people, print_json, print_table

    with people().status("Segmenting"):
        figure, ious, marked = _segment_scenes(out)
    mean = fmean(ious.values())
    rows = [(file, f"IoU {100 * iou:.1f} %") for file, iou in (*ious.items(), ("mean", mean))]
    rows += [(file, f"no {CLASS_NAME}; {share:.1%} marked") for file, share in marked.items()]
    print_table(f"Masks of '{CLASS_NAME}' from one labelled image", ("image", "result"), rows)
    people().print(
        f"The scenes were not chosen. Every step is drawn in {figure}; masks and overlays lie "
        f"beside it."
    )
    if json:
        print_json(
            {
                "folder": str(out),
                "figure": str(figure),
                "class": CLASS_NAME,
                "images": [{"file": f, "iou": round(100 * iou, 2)} for f, iou in ious.items()],
                "mean_iou": round(100 * mean, 2),
                "without": [
                    {"file": f, "marked": round(100 * share, 2)} for f, share in marked.items()
                ],
            }
        )


def _show_photos(out: Path, model: str, visual: str | None, *, json: bool) -> None:
    from piclip.app.example_photos import CLASS_NAME
    from piclip.cli.console import loading_model, people, print_json, print_table
    from piclip.cli.demo_photos import segment_photos

    with loading_model():
        figure, results = segment_photos(out, model=model, visual=visual)
    found = [
        (result.file_name, float(result.mask.mean()), (result.presence_by_class or {})[CLASS_NAME])
        for result in results
    ]
    rows = [(file, f"{presence:.2f}", f"{share:.1%}") for file, share, presence in found]
    title = f"'{CLASS_NAME}' in photographs, from one labelled photograph"
    print_table(title, ("image", "presence", "share of the image"), rows)
    people().print(f"Every step is drawn in {figure}; masks and overlays lie beside it.")
    if json:
        print_json(
            {
                "folder": str(out),
                "figure": str(figure),
                "class": CLASS_NAME,
                "images": [
                    {"file": file, "share": round(share, 4), "presence": presence}
                    for file, share, presence in found
                ],
            }
        )


def _segment_scenes(folder: Path) -> tuple[Path, dict[str, float], dict[str, float]]:
    """Fill the folder.

    Returns:
        The figure's file; by file name the IoU, 0 to 1, of queries that hold the class, and the
        share of those without it that is marked.
    """
    from itertools import count, islice

    from PIL import Image

    from piclip import FewShotSegmenter, Support
    from piclip.datasets.scenes import make_scene
    from piclip.figures.plots import EpisodeRow, episodes_figure, save_figure
    from piclip.io.outputs import write_png
    from piclip.training_free.scorer import TrainingFreeScorer

    scenes = [make_scene(_SEED, index, include=CLASS_NAME) for index in range(1 + _WITH)]
    others = (make_scene(_SEED, index) for index in count(1 + _WITH))
    scenes += islice((scene for scene in others if not scene.mask(CLASS_NAME).any()), _WITHOUT)
    images = [Image.fromarray(scene.image) for scene in scenes]
    truths = [scene.mask(CLASS_NAME) for scene in scenes]
    paths = [folder / "images" / f"{name}.png" for name in _NAMES]
    for path, image, truth in zip(paths, images, truths, strict=True):
        write_png(image, path)
        write_png(truth, folder / "truth" / path.name)

    segmenter = FewShotSegmenter.from_pretrained("builtin", device="cpu")
    support = Support(images[0], truths[0])
    segmenter.fit(support, name=CLASS_NAME)
    published = FewShotSegmenter(TrainingFreeScorer(segmenter.encoder, evidence="published"))
    as_published = published.fit(support, name=CLASS_NAME).predict(paths[1:])
    results = segmenter.predict(paths[1:])
    for result in results:
        result.save(folder / "masks", overwrite=True)
        write_png(result.overlay(), folder / "overlays" / f"{result.name}.png")

    rows = [
        EpisodeRow(images[0], truths[0], result, truth, published=other.priors)
        for result, truth, other in zip(results, truths[1:], as_published, strict=True)
    ]
    figure = save_figure(episodes_figure(rows), folder / "demo.png")
    shown = {path.name: row for path, row in zip(paths[1:], rows, strict=True)}
    ious = {name: shown[name].iou or 0.0 for name in [*shown][:_WITH]}
    return figure, ious, {name: shown[name].prediction.mean().item() for name in [*shown][_WITH:]}
