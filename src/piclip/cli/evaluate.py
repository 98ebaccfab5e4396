"""``piclip evaluate``."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piclip.cli import options

if TYPE_CHECKING:
    from piclip.evaluation.records import Evaluation


def evaluate(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT")],
    *,
    dataset: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    root: options.Root = None,
    option: options.KeyValue = None,
    fold: Annotated[str | None, typer.Option(metavar="N")] = None,
    shot: Annotated[int | None, typer.Option(min=1, metavar="K")] = None,
    protocol: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    splits: options.Splits = None,
    seeds: Annotated[int | None, typer.Option(min=1, metavar="S")] = None,
    episodes: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    episodes_file: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    candidates: Annotated[str, typer.Option(metavar="WHICH")] = "target",
    prior: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, callback=options.finite, metavar="SCORE")
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME")] = "val",
    minimum_images: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    model: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    visual: options.Visual = None,
    device: options.Device = "auto",
    dtype: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N")] = 1,
    output: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    json: bool = False,
) -> None:
    """Measure mIoU and FB-IoU on the novel classes of a fold.

    Intersections and unions are summed per class over all episodes, at the labels' own size unless
    the protocol says another. The result is the same for any number of processes.

    Options:
        checkpoint: Run of a training, folder of a decoder, or 'training-free'. With --fold all,
            {fold} in it stands for the number.
        dataset: pascal-5i, coco-20i, fss-1000, isaid-5i, lvis-92i, pascal-part, folder, coco-json,
            voc-photos or scenes. [default: that of the training]
        fold: Number of the fold, or 'all'. [default: the training's]
        shot: Labelled images per episode. [default: 1]
        protocol: How episodes are drawn and measured: ours, pfenet (as HDMNet and BAM, too) or
            hsnet. [default: ours, or that of --episodes-file]
        seeds: Independent repetitions. [default: 5, pfenet 10, hsnet 1]
        episodes: Episodes per seed. [default: 1000; pfenet on COCO 10000, hsnet on FSS-1000 2400]
        episodes_file: Ask these episodes instead of drawing; leave --shot, --seeds and --episodes
            out.
        candidates: target, or oracle: prompts of all classes in the query's truth (a leak; only to
            compare with published numbers).
        prior: Only training-free: cut a prior at a threshold instead of the finished mask (vtp,
            vvp, vtp+pir, vvp+pir, vtp+vvp, piclip, vtp+vvp+pir).
        threshold: Only training-free. [default: the model's own; for --prior the best one on base
            classes]
        split: val or train.
        minimum_images: Leave out classes with fewer images.
        model: The CLIP. [default: the training's; builtin on scenes]
        dtype: Of the CLIP. [default: the training's]
        workers: Processes.
        output: Keep the result. Seeds that it holds already are not run again. With --fold all, one
            file each, '-foldN' in its name or {fold} in its path.

    Examples:
        piclip evaluate training-free --dataset scenes --fold all --output results/free.json
        piclip evaluate runs/hdmnet-0 --shot 5 --output results/hdmnet-0.json
        piclip evaluate training-free --dataset pascal-5i --root data/pascal --fold 0
            --prior vtp+pir
    """
    from piclip.cli.console import print_json, progress_bar, resuming
    from piclip.cli.evaluation_runs import EvaluateRequest
    from piclip.datasets.episode_files import read_episodes
    from piclip.datasets.protocols import OURS, protocol_named
    from piclip.errors import UsageError
    from piclip.evaluation.evaluate import EpisodeProtocol
    from piclip.evaluation.evaluate import evaluate as run
    from piclip.io.outputs import check_file

    file = None if episodes_file is None else read_episodes(episodes_file)
    drawn_by = OURS.name if file is None else file.protocol
    if file is not None and protocol not in (None, drawn_by):
        raise UsageError(
            f"{episodes_file} was drawn by the protocol {drawn_by}, not {protocol}; leave "
            f"--protocol out or draw other episodes."
        )
    if file is not None:
        for name, value in {"--shot": shot, "--seeds": seeds, "--episodes": episodes}.items():
            if value is not None:
                raise UsageError(
                    f"The episodes of {episodes_file} are drawn already, so that {name} has no "
                    f"effect; leave it out or draw other episodes."
                )
    shot = (shot or 1) if file is None else file.shots
    rules = protocol_named(protocol or drawn_by, splits)
    request = EvaluateRequest(
        checkpoint=checkpoint,
        dataset=dataset,
        root=root,
        options=option or (),
        shot=shot,
        prior=prior,
        threshold=threshold,
        split=split,
        minimum_images=minimum_images,
        model=model,
        visual=visual,
        device=device,
        dtype=dtype,
    )
    results: list[Evaluation] = []
    kept = nullcontext() if output is None else resuming("finished seeds are kept")
    with kept, progress_bar() as bars:
        for number in request.folds(fold):
            task = bars.add_task("Loading", total=None)

            def show(done: int, total: int | None, task: int = task, number: int = number) -> None:
                bars.update(task, description=f"Fold {number}", completed=done, total=total)  # type: ignore[arg-type]

            view = request.view(number)
            place = output and _of_fold(output, number, several=fold == "all")
            if place is not None and not place.is_file():
                check_file(place)  # before --prior chooses its threshold, for minutes
            if file is None:
                count = episodes or rules.count(view.dataset.name)
                drawn = rules.seeds(seeds or rules.repetitions)
                asked = EpisodeProtocol(shot, drawn, count, candidates, rules=rules)  # type: ignore[arg-type]
            else:
                asked = EpisodeProtocol.of_file(file, candidates)  # type: ignore[arg-type]
            result = run(
                request.predictor(view),
                view,
                asked,
                workers=workers,
                output=place,
                command=shlex.join(["piclip", *sys.argv[1:]]),
                progress=show,
            )
            results.append(result)
    _print(results)
    if json:
        records = [result.to_json() for result in results]
        print_json(records[0] if fold != "all" else records)


def _of_fold(output: Path, fold: int, *, several: bool) -> Path:
    """The file for a fold's result."""
    if "{fold}" in str(output):
        return Path(str(output).replace("{fold}", str(fold)))
    return output.with_name(f"{output.stem}-fold{fold}{output.suffix}") if several else output


def _print(results: list[Evaluation]) -> None:
    from piclip.cli.console import people, print_table
    from piclip.evaluation.tables import shown

    first = results[0]
    title = f"{first.method} ({first.prior}) on {first.dataset}, {first.shots}-shot, percent"
    rows = [(f"fold {r.fold}", shown(r.miou, ".2f"), shown(r.fb_iou, ".2f")) for r in results]
    print_table(title, ("", "mIoU", "FB-IoU"), rows)
    classes = [
        (name, "-" if value is None else f"{value:.1f}")
        for result in results
        for name, value in result.per_class.items()
    ]
    print_table("IoU of each class", ("class", "IoU"), classes)
    if first.candidates == "oracle":
        people().print("The prompts were taken from the truth of the queries (oracle).")
