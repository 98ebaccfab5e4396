"""``piclip benchmark``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piclip.cli import options

if TYPE_CHECKING:
    from piclip.evaluation.benchmarks.quality import Report
    from piclip.evaluation.predictor import Predictor

_Workers = Annotated[int | None, typer.Option(min=1, metavar="N")]

app = typer.Typer(
    no_args_is_help=True,
    help="Measure quality on drawn scenes or on photographs, or speed.",
    epilog=options.examples("piclip benchmark scenes --json", "piclip benchmark speed"),
)


@options.command(app)
def scenes(
    *,
    episodes: Annotated[int, typer.Option(min=1, metavar="N")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, metavar="S")] = 5,
    workers: _Workers = None,
    model: options.Model = "builtin",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: bool = False,
) -> None:
    """Measure every map and the final mask on held-out episodes of drawn scenes.

    Prints mIoU (accumulated per class, one threshold for each map) with the 95 % interval, for
    one and for five labelled images; and the final mask where the class has an unknown name, where
    the labelled image shows another class, and where the image does not hold the class.

    Options:
        episodes: Held-out episodes per seed, over all classes.
        seeds: Repetitions with other episodes (named alone).
        workers: Processes. [default: one per core]

    Examples:
        piclip benchmark scenes
        piclip benchmark scenes --episodes 100 --seeds 2 --json
    """
    from piclip.cli.console import progress_lines
    from piclip.evaluation.benchmarks.scenes import run_scene_benchmark

    predictor = _predictor(model, device=device, dtype=dtype)
    with progress_lines("Episodes") as (progress,):
        report = run_scene_benchmark(
            predictor,
            episodes=episodes,
            seeds=seeds,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    _print(report, f"{episodes} episodes x {seeds} seeds of drawn scenes", json=json)


@options.command(app)
def photos(
    *,
    data: Annotated[Path, typer.Option(metavar="FOLDER")],
    list_: Annotated[Path | None, typer.Option("--list", metavar="FILE")] = None,
    shots: Annotated[list[int], typer.Option(min=1, metavar="K")] = [1, 5],  # noqa: B006
    episodes: Annotated[int, typer.Option(min=1, metavar="N")] = 200,
    seed: Annotated[int, typer.Option(min=0, metavar="S")] = 0,
    workers: _Workers = None,
    model: options.Model = options.DEFAULT_MODEL,
    visual: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: bool = False,
) -> None:
    """Measure every map and the final mask on labelled photographs.

    Prints mIoU (accumulated per class, one threshold for each map, chosen on other episodes) with
    the 95 % interval; and the final mask where the class has an unknown name, where the labelled
    image shows another class, and where the image does not hold the class.

    Options:
        data: A folder of 'piclip data prepare'; VOC's JPEGImages/ and SegmentationClassAug/ with a
            list.txt; or COCO 2014 with annotations/, train2014/ and val2014/.
        list_: Take the images of these numbers alone, one a line.
        shots: Labelled images; repeat it for more.
        episodes: Episodes of each kind and number of shots.
        seed: Which episodes.
        workers: Processes. [default: one per core]
        visual: Another ViT that compares images beside the CLIP.

    Examples:
        piclip benchmark photos --data pascal
        piclip benchmark photos --data VOC --list report.txt --shots 1 --episodes 100 --json
    """
    from piclip.cli.console import progress_lines
    from piclip.evaluation.benchmarks.photos import run_photo_benchmark

    predictor = _predictor(model, visual=visual, device=device, dtype=dtype)
    with progress_lines("Episodes") as (progress,):
        report = run_photo_benchmark(
            predictor,
            data,
            only=list_,
            episodes=episodes,
            seed=seed,
            shots=shots,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    _print(report, f"{episodes} episodes of {report.protocol['images']} photographs", json=json)


@options.command(app)
def speed(json: bool = False) -> None:
    """Measure the priors' cost against one plain forward pass of the same encoder.

    ViT-B/16 with random weights, one image of 480 x 480, supports cached, two threads; medians of
    interleaved repetitions.

    Examples:
        piclip benchmark speed
        piclip benchmark speed --json
    """
    from piclip.cli.console import print_json, print_table, progress_lines
    from piclip.evaluation.benchmarks.speed import run_speed_benchmark

    with progress_lines("Rounds") as (on_round,):
        report = run_speed_benchmark(on_round=on_round)
    print_table("Ratios of median times", ("measure", "ratio", "target"), report.rows())
    print_table("Amounts", ("measure", "amount"), report.amounts())
    print_table(
        "Where the time goes, over the plain forward pass",
        ("stage", "one class", "20 classes"),
        report.breakdown(),
    )
    if json:
        print_json(report.as_dict())


def _predictor(model: str, **chosen: Any) -> Predictor:  # noqa: ANN401
    from functools import partial

    from piclip import FewShotSegmenter
    from piclip.evaluation.predictor import Predictor

    return Predictor.load(partial(FewShotSegmenter.from_pretrained, model, **chosen))


def _print(report: Report, title: str, *, json: bool) -> None:
    from piclip.cli.console import print_json, print_table

    def share(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    print_table(
        f"mIoU on {title}",
        ("map", "shot", "mIoU", "95 %"),
        [(r.map, str(r.shot), f"{r.miou:.1f}", f"± {r.ci95:.1f}") for r in report.rows],
    )
    print_table(
        "The final mask, percent",
        ("mode", "shot", "mIoU", "95 %", "absent masked", "present lost", "AUC of presence"),
        [
            (
                row.mode,
                str(row.shot),
                f"{row.miou:.1f}",
                f"± {row.ci95:.1f}",
                share(row.absent_masked),
                share(row.present_lost),
                share(row.presence_auc),
            )
            for row in report.modes
        ],
    )
    if json:
        print_json(report.to_json())
