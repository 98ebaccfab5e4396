"""The files that a person takes home: masks as ZIP, everything as COCO JSON."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from piclip.app.content import Answer
from piclip.app.session import AppSession
from piclip.errors import UsageError
from piclip.formats import Labels, from_segmentation
from piclip.formats.coco import to_dict
from piclip.io.outputs import atomic_path, write_json


def masks_zip(session: AppSession, threshold: float) -> Path:
    """Write ``piclip-masks.zip`` into the session's folder.

    It holds one PNG per image at the image's own size, named after it: 0 and 255 for one class,
    class indices with VOC's palette for several, and ``classes.txt`` with the indices.

    Args:
        session: A session with results.
        threshold: Least score of an object, 0 to 1.

    Raises:
        UsageError: There is no result.
        OutputError: The file cannot be written.
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
            mask = answer.at_threshold(threshold).save(folder)["mask"]
            archive.write(mask, f"masks/{mask.name}")
    return path


def coco_json(session: AppSession, threshold: float) -> Path:
    """Write ``piclip-coco.json`` into the session's folder: every connected region an annotation.

    Args:
        session: A session with results.
        threshold: Least score of an object, 0 to 1.

    Raises:
        UsageError: There is no result.
        OutputError: The file cannot be written.
    """
    answers = _answers(session)
    files = tuple(from_segmentation(a.at_threshold(threshold), a.query.file_name) for a in answers)
    labels = Labels(answers[0].preview.class_names, files)
    return write_json(to_dict(labels), session.folder / "piclip-coco.json")


def _answers(session: AppSession) -> list[Answer]:
    if not session.answers:
        raise UsageError("There is no result to download yet; find the objects first (step 2).")
    return list(session.answers)
