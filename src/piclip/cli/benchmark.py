"""``piclip benchmark``."""

from __future__ import annotations

import os
from math import isnan
from typing import Annotated

import typer

from piclip.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, examples

app = typer.Typer(
    no_args_is_help=True,
    help="Measure quality on the built-in world, or speed.",
    epilog=examples("piclip benchmark scenes --json", "piclip benchmark speed"),
)


@app.command(
    epilog=examples(
        "piclip benchmark scenes", "piclip benchmark scenes --episodes 100 --seeds 2 --json"
    )
)
def scenes(
    *,
    episodes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Held-out episodes per seed, over all classes.")
    ] = 1000,
    seeds: Annotated[int, typer.Option(min=1, metavar="S", help="Independent repetitions.")] = 5,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes. [default: one per core]")
    ] = None,
    model: ModelOption = "builtin",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure every map and the final mask on held-out episodes of the built-in world.

    Prints mIoU (accumulated per class, one threshold for each map) with the 95 % interval over
    the seeds, for one and for five labelled images.
    """
    from functools import partial

    from piclip import FewShotSegmenter
    from piclip.cli.console import print_json, print_table, progress_bar
    from piclip.evaluation.benchmarks.scenes import run_scene_benchmark
    from piclip.evaluation.predictor import Predictor

    predictor = Predictor.load(
        partial(FewShotSegmenter.from_pretrained, model, device=device, dtype=dtype)
    )
    with progress_bar() as progress:
        task = progress.add_task("Episodes", total=None)
        report = run_scene_benchmark(
            predictor,
            episodes=episodes,
            seeds=seeds,
            workers=workers or os.cpu_count() or 1,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    print_table(
        f"mIoU on {episodes} episodes x {seeds} seeds of the built-in world",
        ("map", "shot", "mIoU", "95 %"),
        [(r.map, str(r.shot), f"{r.miou:.1f}", _interval(r.ci95)) for r in report.rows],
    )
    if json:
        print_json(report.to_json())


@app.command(epilog=examples("piclip benchmark speed", "piclip benchmark speed --json"))
def speed(json: JsonOption = False) -> None:
    """Measure the priors' cost against one plain forward pass of the same encoder.

    ViT-B/16 with random weights, one image of 480 x 480, supports cached, two threads; medians of
    interleaved repetitions.
    """
    from piclip.cli.console import print_json, print_table, progress_bar
    from piclip.evaluation.benchmarks.speed import run_speed_benchmark

    with progress_bar() as progress:
        task = progress.add_task("Rounds", total=None)
        report = run_speed_benchmark(
            on_round=lambda done, total: progress.update(task, completed=done, total=total)
        )
    print_table("Ratios of median times", ("measure", "ratio", "target"), report.rows())
    print_table(
        "Where the time goes, over the plain forward pass",
        ("stage", "one class", "20 classes"),
        report.breakdown(),
    )
    if json:
        print_json(report.as_dict())


def _interval(half: float) -> str:
    return "one seed" if isnan(half) else f"± {half:.1f}"
