"""Write proposals in a label format image by image, however many there are.

`piclip.formats.write_labels` takes all labels at once; here they come from a journal, and only a
few are in memory at a time. What is written is the same.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath

from piclip.annotation.journal import Entry
from piclip.annotation.sinks import Proposal
from piclip.errors import UsageError
from piclip.formats import coco, labelstudio, yolo
from piclip.formats.label_files import dump_list, written
from piclip.formats.labels import LabelledFile, Labels, label_paths
from piclip.formats.registry import write_labels
from piclip.io.outputs import advice_for

ONE_FILE = frozenset({"coco", "labelstudio", "parquet"})  # others are folders

_REVIEW = ("image", "certainty", "regions", "lowest_score")
_IMAGES = frozenset({"voc", "masks"})
_AT_ONCE = 64

Files = Callable[[], Iterator[LabelledFile]]  # the images, anew on each call


def check_destination(
    destination: Path, format: str, paths: Sequence[str], files: Iterable[Path]
) -> None:
    """Refuse a destination that does not fit the format or the images, before anything is done.

    The images are called ``paths`` in the labels and lie in ``files``. A UsageError if a file is
    wanted and a folder given or the other way round, two images would have one label, a name does
    not fit the format, or images would be overwritten.
    """
    if format in ONE_FILE:
        if destination.is_dir():
            name = "labels.parquet" if format == "parquet" else "labels.json"
            raise UsageError(
                f"{destination} is a folder, but {format} is one file; add a name such as "
                f"{destination / name}."
            )
        if format == "labelstudio":
            for path in paths:
                labelstudio.image_url(path)
        return
    if destination.is_file() or destination.suffix.lower() == ".json":
        raise UsageError(
            f"{destination} is a file, but {format} is a folder of files; give a folder, or "
            f"--output-format coco for one file."
        )
    label_paths(paths, "")
    folder = destination.resolve()
    if format in _IMAGES and any(folder in file.resolve().parents for file in files):
        raise UsageError(
            f"{destination} holds the images themselves, which masks might overwrite; choose "
            f"another folder."
        )


def write_files(
    files: Files, labels: Labels, destination: Path, format: str, *, simplify: float = 0.0
) -> None:
    """Write images and their regions, with the errors and ``simplify`` of `write_labels`.

    The ``labels`` that were read tell the classes, and the numbers of classes and images.
    """
    if format == "coco":
        coco.write(labels, destination, simplify=simplify, files=files)
    elif format == "labelstudio":
        url = labelstudio.address_of(labels.images)
        dump_list((labelstudio.to_task(file, url) for file in files()), destination)
    else:
        paths = write_image_files(files(), labels, destination, format, simplify)
        if format == "yolo":
            yolo.write_lists(labels.class_names, paths, destination)


def write_image_files(
    files: Iterator[LabelledFile], labels: Labels, folder: Path, format: str, simplify: float
) -> list[str]:
    """As `write_files`, but no lists of images; gives their paths if the format has lists."""
    paths = []
    while batch := tuple(islice(files, _AT_ONCE)):
        if format == "masks":
            for path in missing_masks(batch, labels.class_names):
                (folder / path).unlink(missing_ok=True)
        if format == "yolo":
            for file in batch:
                yolo.write_text_of(file, labels.class_names, folder, simplify)
                paths.append(file.path)
        else:
            write_labels(replace(labels, images=batch), folder, format=format, simplify=simplify)
    return paths


def missing_masks(files: Iterable[LabelledFile], class_names: Sequence[str]) -> Iterator[str]:
    """Where no mask may stay from an earlier run with more regions: a missing one says none."""
    for file in files:
        for name in set(class_names) - set(file.class_names):
            yield str(PurePosixPath(name, file.path).with_suffix(".png"))


def write_review(proposals: Iterable[Proposal], destination: Path) -> None:
    """Write a CSV file with the least certain images first (OutputError if that fails)."""
    rows = []
    for proposal in proposals:  # of which only these figures stay in memory
        file = proposal.file
        scores = [region.score for region in file.regions if region.score is not None]
        lowest = f"{min(scores):.4f}" if scores else ""
        rows.append((proposal.certainty or 0, file.path, len(scores), lowest, file.presence or {}))
    rows.sort(key=itemgetter(0, 1))
    names = list(dict.fromkeys(name for *_, presence in rows for name in presence))
    with written(destination) as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow([*_REVIEW, *(f"presence of {name}" for name in names)])
        for certainty, path, regions, lowest, presence in rows:
            shares = [f"{presence[name]:.4f}" if name in presence else "" for name in names]
            table.writerow([path, f"{certainty:.4f}", regions, lowest, *shares])


def is_review(path: Path) -> bool:
    """Whether a file begins as those of `write_review` (OutputError if it cannot be read)."""
    with advice_for(path), path.open("rb") as file:
        return file.readline(1000).startswith(",".join(_REVIEW).encode())


def write_table(entries: Iterable[Entry], destination: Path) -> None:
    """Write what `piclip.annotation.sinks.MaskFiles` found as CSV, a row per image and class.

    Columns are the image, the class, the share of the image's pixels that are of it, its presence,
    and the mean score of these pixels (empty without any). Images that failed are left out.
    """
    with written(destination) as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["image", "class", "share", "presence", "mean_score"])
        for entry in entries:
            if entry.reason is not None:
                continue
            presence = entry.found["presence"] or {}
            for name, share in entry.found["shares"].items():
                score = entry.found["scores"][name]
                table.writerow([entry.path, name, share, presence.get(name), score])
