"""Datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from piclip.datasets.coco_json import CocoJson
from piclip.datasets.dataset import Dataset, check_choice
from piclip.datasets.folder import FolderDataset
from piclip.datasets.fss1000 import FSS1000
from piclip.datasets.isaid import ISAID5i
from piclip.datasets.lvis import LVIS92i
from piclip.datasets.pascal_part import PascalPart
from piclip.datasets.photographs import open_listed
from piclip.datasets.prepared import open_coco, open_pascal
from piclip.datasets.scenes.scene_dataset import SceneDataset
from piclip.errors import UsageError
from piclip.io.documents import unfit

_OPENERS: dict[str, Callable[..., Dataset]] = {
    "pascal-5i": open_pascal,
    "coco-20i": open_coco,
    "fss-1000": FSS1000,
    "isaid-5i": ISAID5i,
    "lvis-92i": LVIS92i,
    "pascal-part": PascalPart,
    "folder": FolderDataset,
    "coco-json": CocoJson,
    "voc-photos": open_listed,
    "scenes": SceneDataset,  # the only one that lies in no folder
}

DATASETS: tuple[str, ...] = tuple(_OPENERS)
"""The names that `open_dataset` takes."""


def open_dataset(name: str, root: str | Path | None = None, **options: Any) -> Dataset:  # noqa: ANN401
    """Opens a dataset.

    Args:
        name: One of `DATASETS`.
        root: Its folder; for all but ``"scenes"``, which lie in none.
        **options: What the dataset's class takes by keyword, such as ``fold_convention`` of
            ``"coco-20i"`` or ``train_images`` of ``"scenes"``.

    Raises:
        UsageError: The name or an option is unknown, an option of another type, or the folder is
            missing.
        DatasetError: The dataset is incomplete or contradicts itself.
    """
    check_choice("dataset", name, DATASETS)
    opener = _OPENERS[name]
    parameters = inspect.signature(opener, eval_str=True).parameters.values()
    known = {p.name: p.annotation for p in parameters if p.kind == p.KEYWORD_ONLY}
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UsageError(
            f"The dataset {name} has no option {unknown[0]!r}; choose from {', '.join(known)}."
        )
    if fault := unfit(options, known):
        raise UsageError(f"The dataset {name} cannot be opened: its option {fault}; correct it.")
    if opener is SceneDataset:
        if root is not None:
            raise UsageError(f"The dataset {name} lies in no folder; leave {root} out.")
        return opener(**options)
    if root is None:
        raise UsageError(f"The dataset {name} needs its folder; say where it lies.")
    if not Path(root).is_dir():
        raise UsageError(f"{root}: there is no such folder; say where the dataset {name} lies.")
    return opener(Path(root), **options)
