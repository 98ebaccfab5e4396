"""``piclip data``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from piclip.cli import options

if TYPE_CHECKING:
    from rich.progress import TaskID

    from piclip.datasets.prepare.check import Report
    from piclip.datasets.prepare.preparation import Prepared

_MIB = 1 << 20

app = typer.Typer(
    no_args_is_help=True,
    help="Download, prepare and check the datasets of the benchmarks, and draw episodes.",
    epilog=options.examples(
        "piclip data download pascal --out voc",
        "piclip data prepare pascal --voc voc --sbd voc --out pascal",
        "piclip data check pascal",
        "piclip data episodes pascal-5i --root pascal --out fold0.json",
    ),
)
_prepare = typer.Typer(
    no_args_is_help=True,
    help="Make class masks and lists of the original annotations.",
    epilog=options.examples(
        "piclip data prepare pascal --voc voc --sbd voc --out pascal",
        "piclip data prepare coco --help",
    ),
)
app.add_typer(_prepare, name="prepare")

_Out = Annotated[Path, typer.Option("--out", metavar="DIR")]


@options.command(_prepare)
def pascal(
    *,
    voc: Annotated[Path, typer.Option(metavar="DIR")],
    out: _Out,
    sbd: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    masks: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    train_list: Annotated[str, typer.Option(metavar="NAME")] = "published",
    list_file: Annotated[Path | None, typer.Option("--list", metavar="FILE")] = None,
    json: bool = False,
) -> None:
    """Merge VOC 2012 and SBD into class masks, and write the lists of PASCAL-5i.

    Images of VOC's own lists keep VOC's masks, the others have SBD's; val is VOC's val list.
    Stopped and run again, it goes on where it was.

    Options:
        voc: VOC 2012 as it is unpacked.
        out: The prepared folder, made or continued.
        sbd: SBD as it is unpacked.
        masks: Instead of --sbd: a folder SegmentationClassAug.
        train_list: published (5953 images, as PFENet and BAM) or aug (10582).
        list_file: Instead of --train-list: one image name per line.

    Examples:
        piclip data prepare pascal --voc VOCdevkit/VOC2012 --sbd benchmark_RELEASE --out pascal
        piclip data prepare pascal --voc VOC2012 --masks SegmentationClassAug --out pascal
            --train-list aug
    """
    from piclip.cli.console import progress_lines
    from piclip.datasets.prepare.pascal_5i import prepare_pascal

    with progress_lines("Masks") as (progress,):
        prepared = prepare_pascal(
            out,
            voc=voc,
            sbd=sbd,
            masks=masks,
            train_list=train_list,
            list_file=list_file,
            progress=progress,
        )
    _report_prepared(prepared, json)


@options.command(_prepare)
def coco(
    *,
    images: Annotated[Path, typer.Option(metavar="DIR")],
    annotations: Annotated[list[Path], typer.Option(metavar="JSON")],
    out: _Out,
    json: bool = False,
) -> None:
    """Draw COCO's objects into class masks, and write the lists of COCO-20i.

    Smaller objects lie on top of larger ones, crowd regions become 255 (ignore). The name of its
    annotation file says whether an image is in train or val. Stopped and run again, it goes on
    where it was.

    Options:
        images: The folder with train2014, val2014.
        annotations: instances_*.json; may be repeated.
        out: The prepared folder, made or continued.

    Examples:
        piclip data prepare coco --images coco
            --annotations coco/annotations/instances_train2014.json
            --annotations coco/annotations/instances_val2014.json --out coco-20i
    """
    from piclip.cli.console import progress_lines
    from piclip.datasets.prepare.coco_20i import prepare_coco

    with progress_lines("Annotations (bytes)", "Masks") as (reading, progress):
        prepared = prepare_coco(
            out, images=images, annotations=annotations, reading=reading, progress=progress
        )
    _report_prepared(prepared, json)


@options.command(app)
def download(
    dataset: Annotated[str, typer.Argument(metavar="pascal|coco")],
    *,
    out: _Out,
) -> None:
    """Download the photographs and annotations of a dataset, check and unpack them.

    The archives lie in DIR/archives until you delete them; those that you put there yourself are
    checked and used. Stopped and run again, it goes on where it was.

    Options:
        dataset: What to download.
        out: Where the files go.

    Examples:
        piclip data download coco --out coco
    """
    from piclip.cli.console import people, progress_bar
    from piclip.datasets.prepare import download as downloads

    with progress_bar() as progress:
        tasks: dict[str, TaskID] = {}

        def show(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(f"{label} (MiB)", total=None)
            whole = None if total is None else total // _MIB
            progress.update(tasks[label], completed=done // _MIB, total=whole)

        notes = downloads.download(dataset, out, show)
    for note in notes:
        people().print(note)
    people().print(f"The files of {dataset} are in {out}; go on with 'piclip data prepare'.")


@options.command(app)
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    json: bool = False,
) -> None:
    """Say what a prepared folder holds, per fold and class, and what is missing.

    Exit code: 0 when all is there, 1 when something is missing or wrong.

    Options:
        folder: The prepared folder.

    Examples:
        piclip data check pascal
        piclip data check coco-20i --json
    """
    from piclip.cli.console import print_json, progress_lines
    from piclip.datasets.prepare.check import check_folder

    with progress_lines("Images") as (progress,):
        report = check_folder(folder, progress)
    _report_check(report)
    if json:
        print_json(report.as_json())
    if report.problems:
        raise typer.Exit(1)


@options.command(app)
def episodes(
    dataset: Annotated[str, typer.Argument(metavar="DATASET")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE")],
    root: options.Root = None,
    option: options.KeyValue = None,
    fold: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    shot: options.Shot = 1,
    protocol: Annotated[str, typer.Option(metavar="NAME")] = "ours",
    splits: options.Splits = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="S")] = None,
    count: Annotated[int | None, typer.Option("--episodes", min=1, metavar="N")] = None,
    json: bool = False,
) -> None:
    """Draw the episodes of a protocol on the novel classes of a fold, for 'piclip evaluate'.

    The same command makes the same file on every machine.

    Options:
        dataset: pascal-5i, coco-20i, fss-1000, isaid-5i, lvis-92i, pascal-part, folder, coco-json,
            voc-photos or scenes.
        out: The file of episodes.
        fold: Number of the fold.
        protocol: How episodes are drawn: ours, pfenet (as HDMNet and BAM, too) or hsnet.
        seed: [default: the protocol's first: 0; pfenet 510]
        count: How many. [default: 1000; pfenet on COCO 10000, hsnet on FSS-1000 2400]

    Examples:
        piclip data episodes pascal-5i --root pascal --fold 0 --out fold0.json
        piclip data episodes coco-20i --root coco-20i --fold 0 --protocol hsnet
            --splits hsnet/data/splits --out hsnet0.json
    """
    from piclip.cli.console import people, print_json
    from piclip.cli.evaluation_runs import EvaluateRequest
    from piclip.datasets.episode_files import write_episodes
    from piclip.datasets.protocols import protocol_named

    rules = protocol_named(protocol, splits)
    view = EvaluateRequest(dataset=dataset, root=root, options=option or ()).view(fold)
    seed = rules.seeds(1)[0] if seed is None else seed
    count = count or rules.count(view.dataset.name)
    state = write_episodes(out, view, seed, count, shot, rules)
    people().print(
        f"{count} episodes of {view.dataset.name}, fold {fold}, {shot}-shot, protocol {protocol}, "
        f"seed {seed}, are in {out}; ask them with 'piclip evaluate --episodes-file {out}'."
    )
    if json:
        print_json({"file": str(out), "episodes": count, "seed": seed, "hash": state})


def _report_prepared(prepared: Prepared, json: bool) -> None:
    from piclip.cli.console import people, print_json

    for sentence in prepared.departures:
        people().print(sentence)
    earlier = f" ({prepared.kept} from an earlier run)" if prepared.kept else ""
    lists = ", ".join(f"{split} {count}" for split, count in prepared.counts.items())
    people().print(
        f"{prepared.made + prepared.kept} masks{earlier} are in {prepared.folder}; {lists}. Look "
        f"it through with 'piclip data check {prepared.folder}'."
    )
    if json:
        print_json(
            {
                "folder": str(prepared.folder),
                "images": dict(prepared.counts),
                "published": dict(prepared.published),
                "made": prepared.made,
                "kept": prepared.kept,
            }
        )


def _report_check(report: Report) -> None:
    from piclip.cli.console import people, print_some, print_table

    splits = [
        heading
        for split in report.images
        for heading in (split, f"{split} >= {report.minimum_pixels} px")
    ]
    sizes = ", ".join(f"{count} {split}" for split, count in report.images.items())
    print_table(
        f"{report.name}: {sizes} images; images that show a class, and that count for it",
        ("fold", "class", *splits),
        report.rows(),
    )
    if not report.problems:
        people().print("Nothing is missing.")
        return
    people().print(f"{len(report.problems)} things are missing or wrong:")
    print_some([problem.text for problem in report.problems], "all of them in --json")
