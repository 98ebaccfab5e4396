"""COCO-20i from instance annotations: objects become class masks.

How objects that overlap are drawn says `piclip.datasets.coco_objects`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piclip.clip.prompts import class_names
from piclip.datasets.coco_objects import coco_masks, draw_objects
from piclip.datasets.dataset import Split
from piclip.datasets.prepare.preparation import (
    SPLITS,
    ClassMap,
    Listed,
    Plan,
    Prepared,
    carry_out,
)
from piclip.errors import ImageError, MaskError, UsageError
from piclip.io.documents import read_json
from piclip.io.outputs import Progress

_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED)
"""The ids of COCO's 80 categories; the k-th (from 1) has the value k in the masks."""

# Images with at least one object: all that the published lists name.
PUBLISHED_COUNTS: dict[Split, int] = {"train": 82081, "val": 40137}


def prepare_coco(
    out: Path, *, images: Path, annotations: Sequence[Path], progress: Progress | None = None
) -> Prepared:
    """Draw the objects of COCO's instance annotations into class masks, and write the lists.

    Whether an image is in train or val says the name of its annotation file
    (``instances_val2014.json``). Images without any annotation are left out, as in the published
    lists. The 80 categories in the order of their ids have the values 1 to 80.

    Args:
        out: The prepared folder; masks that are already there are kept.
        images: Folder with the photographs, or with ``train2014`` and ``val2014``.
        annotations: The instance annotations.
        progress: Told how many masks are done.

    Returns:
        The counts, to be compared with the published ones.

    Raises:
        UsageError: A file is no instance annotations, or an image is in two of them.
        ImageError, MaskError: A photograph or file is missing, or an annotation is damaged.
        OutputError: The folder cannot be written.
        PiclipError: Ctrl-C was pressed; finished masks stay.
    """
    if not annotations:
        raise UsageError("Give at least one --annotations, such as instances_val2014.json.")
    coco_masks()
    lists: dict[Split, list[Listed]] = {}
    labelled: dict[str, _Labelled] = {}
    for file in annotations:
        items = _read_annotations(file)
        folder = _photographs_folder(images, file)
        listed = [
            Listed(key, (folder / item.file_name).as_posix()) for key, item in sorted(items.items())
        ]
        lists.setdefault(_split_of(file), []).extend(listed)
        twice = labelled.keys() & items.keys()
        if twice:
            raise UsageError(
                f"{file} holds {len(twice)} images of another annotation file, such as "
                f"{min(twice)}; give every image once."
            )
        labelled |= items
    plan = Plan(
        "coco-20i",
        class_names("coco"),
        images,
        "COCO's instance annotations",
        lists,
        lambda key: _draw(labelled[key]),
        {split: PUBLISHED_COUNTS[split] for split in lists},
    )
    return carry_out(plan, out, progress)


@dataclass(frozen=True)
class _Labelled:
    """One image of the annotations: name, (height, width) in pixels and its objects."""

    file_name: str
    size: tuple[int, int]
    objects: list[dict[str, Any]] = field(default_factory=list)


def _draw(labelled: _Labelled) -> ClassMap:
    return draw_objects(
        labelled.objects,
        labelled.size,
        lambda category: CATEGORY_IDS.index(category) + 1,
        image=labelled.file_name,
        error=MaskError,
    )


def _read_annotations(file: Path) -> dict[str, _Labelled]:
    """The images with objects, by the stems of their names."""
    try:
        data = read_json(file)
    except OSError as error:
        raise ImageError(f"{file} cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise MaskError(f"{file} is no intact JSON ({error}); unpack the archive again.") from error
    try:
        ids = sorted(category["id"] for category in data["categories"])
        objects = defaultdict(list)
        for annotation in data["annotations"]:
            objects[annotation["image_id"]].append(annotation)
        labelled = {
            Path(image["file_name"]).stem: _Labelled(
                Path(image["file_name"]).name,
                (image["height"], image["width"]),
                sorted(objects[image["id"]], key=lambda annotation: int(annotation["id"])),
            )
            for image in data["images"]
            if image["id"] in objects
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file} has not the structure of COCO's instance annotations ({error!r}); give a file "
            f"such as instances_val2014.json."
        ) from error
    if tuple(ids) != CATEGORY_IDS:
        raise UsageError(
            f"{file} has {len(ids)} categories that are not COCO's 80; open it as a dataset of "
            f"the kind coco-json instead."
        )
    return labelled


def _split_of(file: Path) -> Split:
    for split in SPLITS:
        if split in file.stem:
            return split
    raise UsageError(
        f"{file.name} does not say whether its images are for training; put train or val into the "
        f"name, as in instances_val2014.json."
    )


def _photographs_folder(images: Path, file: Path) -> Path:
    """Where an annotation file's photographs lie, relative to ``images``."""
    folder = Path(file.stem.removeprefix("instances_"))
    return folder if (images / folder).is_dir() else Path()
