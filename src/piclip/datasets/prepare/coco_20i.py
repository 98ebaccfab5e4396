"""COCO-20i from instance annotations: objects become class masks.

How objects that overlap are drawn says `piclip.datasets.coco_json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from piclip.clip.prompts import class_names
from piclip.datasets.coco_json import draw_objects, read_coco
from piclip.datasets.dataset import Split
from piclip.datasets.prepare.preparation import Plan, Prepared, carry_out
from piclip.datasets.prepared import SPLITS
from piclip.errors import UsageError
from piclip.formats.coco import CocoImage
from piclip.io.outputs import Progress

_UNUSED = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED)
"""The ids of COCO's 80 categories; the k-th (from 1) has the value k in the masks."""
_VALUES = {number: value for value, number in enumerate(CATEGORY_IDS, start=1)}

# Images with at least one object: all that the published lists name.
PUBLISHED_COUNTS: dict[Split, int] = {"train": 82081, "val": 40137}


def prepare_coco(
    out: Path,
    *,
    images: Path,
    annotations: Sequence[Path],
    reading: Progress | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Draw the objects of COCO's instance annotations into class masks, and write the lists.

    Whether an image is in train or val says the name of its annotation file
    (``instances_val2014.json``). Images without any annotation are left out, as in the published
    lists. The 80 categories in the order of their ids have the values 1 to 80.

    Args:
        out: The prepared folder; masks that are already there are kept.
        images: Folder with the photographs, or with ``train2014`` and ``val2014``.
        annotations: The instance annotations.
        reading: Told how many bytes of an annotation file are read.
        progress: Told how many masks are done.

    Raises:
        UsageError: A file has other categories, or an image is in two of them.
        DatasetError: A photograph or file is missing, or an annotation is damaged.
        OutputError, PiclipError: As `carry_out`.
    """
    if not annotations:
        raise UsageError("Give at least one --annotations, such as instances_val2014.json.")
    lists: dict[Split, dict[str, str]] = {}
    labelled: dict[str, CocoImage] = {}
    for file in annotations:
        items = _read_annotations(file, reading)
        folder = Path(file.stem.removeprefix("instances_"))
        folder = folder if (images / folder).is_dir() else Path()
        twice = labelled.keys() & items.keys()
        if twice:
            raise UsageError(
                f"{file} holds {len(twice)} images of another annotation file, such as "
                f"{min(twice)}; give every image once."
            )
        labelled |= items
        split = next((split for split in SPLITS if split in file.stem), None)
        if split is None:
            raise UsageError(
                f"{file.name} does not say whether its images are for training; put train or val "
                f"into the name, as in instances_val2014.json."
            )
        lists.setdefault(split, {}).update(
            (key, (folder / Path(item.path).name).as_posix()) for key, item in sorted(items.items())
        )
    plan = Plan(
        "coco-20i",
        class_names("coco"),
        images,
        "COCO's instance annotations",
        lists,
        lambda key: draw_objects(labelled[key], _VALUES),
        {split: PUBLISHED_COUNTS[split] for split in lists},
    )
    return carry_out(plan, out, progress)


def _read_annotations(file: Path, reading: Progress | None) -> dict[str, CocoImage]:
    """The images with objects by the stems of their names, the objects ordered by id."""
    categories, images = read_coco(file, reading)
    if tuple(categories) != CATEGORY_IDS:
        raise UsageError(
            f"{file} has {len(categories)} categories that are not COCO's 80; open it as a dataset "
            f"of the kind coco-json instead."
        )
    for image in images.values():
        image.annotations.sort(key=lambda a: a["id"] if isinstance(a.get("id"), int) else 0)
    found: dict[str, str] = {}
    for key in images:
        if (other := found.setdefault(Path(key).name, key)) != key:
            raise UsageError(
                f"{file}: the images {other} and {key} have one name, which COCO gives to one "
                f"alone; give each its own."
            )
    return {Path(key).name: image for key, image in images.items() if image.annotations}
