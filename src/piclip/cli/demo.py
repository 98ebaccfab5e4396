"""``piclip demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli import options
from piclip.errors import UsageError


def demo(
    out: Annotated[Path, typer.Argument()] = Path("demo"),
    photos: bool = False,
    model: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    visual: options.Visual = None,
    json: bool = False,
) -> None:
    """Segment a few drawn scenes with the built-in model: offline, in seconds.

    Draws a labelled scene and six others, two of them without the class, none of them chosen;
    segments them from the one labelled example, and writes images, masks, overlays and one figure
    with every step.

    With --photos, segments two photographs of cheetahs, and two without any, from a third one.

    Options:
        out: The folder to fill.
        photos: Segment photographs of cheetahs instead, which come with gradio (piclip[app]).
        model: With --photos: hub name or folder of a CLIP or another ViT. [default:
            openai/clip-vit-base-patch16]

    Examples:
        piclip demo
        piclip demo somewhere/else --json
        piclip demo photos --photos --visual facebook/dinov2-small
    """
    from statistics import fmean

    if photos:
        _show_photos(out, model or options.DEFAULT_MODEL, visual, json=json)
        return
    if model is not None or visual is not None:
        raise UsageError(
            "The scenes are segmented with the built-in model; add --photos to choose another one."
        )
    from piclip.cli.console import people, print_json, print_table
    from piclip.cli.demo_steps import CLASS_NAME, segment_scenes

    with people().status("Segmenting"):
        figure, drawn = segment_scenes(out)
    ious, marked = {}, {}  # of queries that hold the class, and of those without it, 0 to 1
    for row in drawn:
        if row.truth is not None and row.truth.any():
            ious[row.segmentation.file_name] = row.iou or 0.0
        else:
            marked[row.segmentation.file_name] = row.prediction.mean().item()
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
    from piclip.cli.demo_steps import segment_photos

    with loading_model():
        figure, drawn = segment_photos(out, model=model, visual=visual)
    results = [row.segmentation for row in drawn]
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
