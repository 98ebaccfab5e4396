"""Files that people bring in pairs, and those that they take home: masks as ZIP, COCO JSON."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from piclip.app.answers import Answer
from piclip.app.session import AppSession
from piclip.errors import UsageError
from piclip.formats import Labels, from_segmentation
from piclip.formats.coco import to_dict
from piclip.io.outputs import atomic_path, write_json


def pair_by_name(images: Sequence[str], masks: Sequence[str]) -> list[tuple[Path, Path]]:
    """Pair images and masks by their names without suffix; one of each belong together anyway.

    The pairs are in the order of the images; a UsageError if a file of either kind is missing.
    """
    if not images or not masks:
        missing = "image" if not images else "mask"
        raise UsageError(f"Upload at least one {missing} first: every image needs its mask.")
    if len(images) == len(masks) == 1:
        return [(Path(images[0]), Path(masks[0]))]
    by_stem = {Path(mask).stem.lower(): Path(mask) for mask in masks}
    lonely = [Path(image).name for image in images if Path(image).stem.lower() not in by_stem]
    if lonely or len(masks) != len(images):
        what = f"{lonely[0]} has none" if lonely else f"{len(images)} and {len(masks)} came"
        raise UsageError(
            f"Each image needs a mask of the same name (zebra.jpg and zebra.png), but {what}."
        )
    return [(Path(image), by_stem[Path(image).stem.lower()]) for image in images]


def masks_zip(session: AppSession, threshold: float) -> Path:
    """Write ``piclip-masks.zip`` into the session's folder (UsageError if there is no result).

    It holds one PNG per image at the image's own size, named after it: 0 and 255 for one class,
    class indices with VOC's palette for several, and ``classes.txt`` with the indices.
    """
    answers = _answers(session)
    path = session.folder / "piclip-masks.zip"
    names = answers[0].preview.class_names
    with (
        tempfile.TemporaryDirectory(dir=session.folder) as folder,
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        archive.writestr("classes.txt", "".join(f"{k}\t{n}\n" for k, n in enumerate(names, 1)))
        for answer in answers:
            result = answer.at_threshold(threshold, min_presence=session.min_presence)
            mask = result.save(folder)["mask"]
            archive.write(mask, f"masks/{mask.name}")
    return path


def coco_json(session: AppSession, threshold: float) -> Path:
    """Write ``piclip-coco.json``, likewise: every connected region an annotation."""
    answers = _answers(session)
    least = session.min_presence
    files = tuple(
        from_segmentation(a.at_threshold(threshold, min_presence=least), a.query.file_name)
        for a in answers
    )
    labels = Labels(answers[0].preview.class_names, files)
    return write_json(to_dict(labels), session.folder / "piclip-coco.json")


def _answers(session: AppSession) -> list[Answer]:
    if not session.answers:
        raise UsageError("There is no result to download yet; find the objects first (step 2).")
    return list(session.answers)
