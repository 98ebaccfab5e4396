"""``piclip demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piclip.cli.options import JsonOption, examples

EXAMPLES = examples("piclip demo", "piclip demo somewhere/else --json")


def demo(
    out: Annotated[Path, typer.Argument(help="The folder to fill.")] = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Segment a few generated scenes with the built-in model: offline, in seconds.

    Draws a labelled scene and six others, segments them from the one labelled example, and
    writes images, masks, overlays and one figure with every step.
    """
    from piclip.cli.console import people, print_json, print_table
    from piclip.cli.demo_scenes import CLASS_NAME, run_demo

    with people().status("Segmenting"):
        outcome = run_demo(out)
    rows = [(file, f"{100 * iou:.1f} %") for file, iou in outcome.ious.items()]
    rows.append(("mean", f"{100 * outcome.mean_iou:.1f} %"))
    print_table(f"Masks of '{CLASS_NAME}' from one labelled image", ("image", "IoU"), rows)
    people().print(f"Every step is drawn in {outcome.figure}; masks and overlays lie beside it.")
    if json:
        print_json(outcome.as_json())
