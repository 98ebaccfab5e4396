"""Episodes as HSNet's public code draws them, from its own lists of images.

HSNet (juhongm999/hsnet) seeds NumPy's global generator, tests in one process and picks by
``numpy.random.choice(a, 1, replace=False)``, which is the first place of a permutation. That stream
is frozen by NumPy (NEP 19), so that the episodes here are those of its code, one by one, wherever
its lists and the images are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

import numpy as np

from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.file_dataset import read_lines
from piclip.errors import DatasetError, UsageError
from piclip.io.documents import read_plain_pickle

_FSS_IMAGES = 10  # of every class
_Choice = TypeVar("_Choice")
_Question: TypeAlias = tuple[int, str, Sequence[str]]
"""A class, the query, and the images of the class, among which the supports are drawn."""
_Draw: TypeAlias = Callable[[FewShotView, Path | None, np.random.RandomState], Iterator[_Question]]


def draw_hsnet(
    view: FewShotView, seed: int, count: int, shots: int, *, splits: Path | None = None
) -> tuple[EpisodeKeys, ...]:
    """The first episodes of a seed by HSNet's rules.

    - PASCAL-5i: the pairs of image and class of its val list in order, over and over.
    - COCO-20i: a class of the fold, then an image of its list for this class, both uniformly.
    - FSS-1000: every image of the test classes in order, class by class.

    A support is any image of the class but the query; the same one may come twice.

    Args:
        view: Novel classes of the val split.
        seed: 0 or more; HSNet tests with 0.
        count: How many; a list that is shorter begins anew.
        shots: Number of supports.
        splits: Folder of HSNet's lists, ``data/splits`` or the part for this dataset in it: files
            ``val/foldN.txt`` (PASCAL-5i) and ``val/foldN.pkl`` (COCO-20i). FSS-1000 needs none.

    Raises:
        UsageError: HSNet has no rules for this dataset or view, or ``splits`` is not given.
        DatasetError: A list is missing or damaged, names other classes or images than there are,
            or a class has one image alone.
    """
    if view.dataset.name not in _DRAWS:
        raise UsageError(
            f"The protocol hsnet is for {', '.join(_DRAWS)}, not for {view.dataset.name}; choose "
            f"another protocol."
        )
    if (view.split, view.classes) != ("val", view.novel_classes):
        raise UsageError(
            "The protocol hsnet asks for all novel classes of the val split; choose no other split "
            "and leave no class out (minimum_images)."
        )
    random = np.random.RandomState(seed)
    questions = _DRAWS[view.dataset.name](view, splits, random)
    episodes = []
    for index, query, images in islice(questions, count):
        supports: list[str] = []
        while len(supports) < shots:
            if (key := _pick(random, images)) != query:
                supports.append(key)
        episodes.append(EpisodeKeys(index, query, tuple(supports)))
    return tuple(episodes)


def _pascal(
    view: FewShotView, splits: Path | None, random: np.random.RandomState
) -> Iterator[_Question]:
    path = _list_file(splits, "pascal", f"fold{view.fold}.txt")
    pairs = [_pair(line, path) for line in read_lines(path)]
    images_of: dict[int, list[str]] = {}
    for key, index in pairs:
        images_of.setdefault(index, []).append(key)
    _check(view, path, images_of)
    return ((index, query, images_of[index]) for query, index in cycle(pairs))


def _coco(
    view: FewShotView, splits: Path | None, random: np.random.RandomState
) -> Iterator[_Question]:
    path = _list_file(splits, "coco", f"fold{view.fold}.pkl")
    images_of = _read_classwise(path)
    _check(view, path, images_of)
    while True:
        index = _pick(random, view.novel_classes)
        yield index, _pick(random, images_of[index]), images_of[index]


def _fss(
    view: FewShotView, splits: Path | None, random: np.random.RandomState
) -> Iterator[_Question]:
    keys = sorted(view.dataset.keys("val"), key=lambda key: key.rsplit("/", 1))
    indices = {name: index for index, name in enumerate(view.dataset.class_names)}
    names = {key: key.rsplit("/", 1)[0] for key in keys}
    images_of = {n: [f"{n}/{k + 1}" for k in range(_FSS_IMAGES)] for n in names.values()}
    missing = {key for images in images_of.values() for key in images} - {*keys}
    if missing:
        raise DatasetError(
            f"The protocol hsnet needs the images 1 to {_FSS_IMAGES} of every test class, but "
            f"{min(missing)} is missing; complete the dataset."
        )
    return ((indices[names[key]], key, images_of[names[key]]) for key in cycle(keys))


_DRAWS: Mapping[str, _Draw] = {"pascal-5i": _pascal, "coco-20i": _coco, "fss-1000": _fss}


def _pick(random: np.random.RandomState, choices: Sequence[_Choice]) -> _Choice:
    return choices[int(random.permutation(len(choices))[0])]


def _list_file(splits: Path | None, dataset: str, name: str) -> Path:
    if splits is None:
        raise UsageError(
            "The protocol hsnet asks for the images of HSNet's own lists; give the folder of its "
            "split files (data/splits)."
        )
    for folder in (splits / dataset / "val", splits / "val", splits):
        if (folder / name).is_file():
            return folder / name
    raise DatasetError(
        f"{splits} holds no {dataset}/val/{name}; give the folder of HSNet's split files "
        f"(data/splits)."
    )


def _pair(line: str, path: Path) -> tuple[str, int]:
    """An image and the class index of a line such as ``2007_000033__01``, classes from 1 on."""
    key, parted, number = line.partition("__")
    if not (parted and number.isdecimal()):
        raise DatasetError(
            f"{path}: an image and the number of a class were expected, as in 2007_000033__01, not "
            f"{line!r}; give HSNet's own file."
        )
    return key, int(number) - 1


def _read_classwise(path: Path) -> dict[int, list[str]]:
    """Keys of the images of each class index, from HSNet's pickled dict of paths."""
    try:
        content = read_plain_pickle(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); give HSNet's own file.") from error
    images_of: dict[int, list[str]] = {}
    for index, names in content.items() if isinstance(content, dict) else ():
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not (isinstance(index, int) and texts):
            raise DatasetError(
                f"{path} does not hold lists of image paths by the number of the class; give "
                f"HSNet's own file."
            )
        images_of[index] = [PurePosixPath(name).stem for name in names]
    return images_of


def _check(view: FewShotView, path: Path, images_of: Mapping[int, Sequence[str]]) -> None:
    """Refuses lists of other classes or images than those of the view."""
    asked, novel = set(images_of), set(view.novel_classes)
    if not asked or not asked <= novel or (view.dataset.name == "coco-20i" and asked < novel):
        raise DatasetError(
            f"{path} lists the classes {sorted(asked)}, but fold {view.fold} of "
            f"{view.dataset.name} holds back {sorted(novel)} (counted from 0); give the file of "
            f"that fold."
        )
    there = set(view.dataset.keys(view.split))
    missing = sorted({key for images in images_of.values() for key in images} - there)
    if missing:
        raise DatasetError(
            f"{path} names {len(missing)} images that are not in the val split of "
            f"{view.dataset.name} (the first is {missing[0]!r}); complete the dataset."
        )
    for index, images in images_of.items():
        if len(set(images)) < 2:
            raise DatasetError(
                f"{path} has fewer than two images of the class "
                f"{view.dataset.class_names[index]!r}, so that none is left as a support; give "
                f"HSNet's own file."
            )
