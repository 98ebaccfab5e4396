"""Few-shot views of a dataset: which images count for which class, and episodes drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import MOST_CLASSES, Dataset, Sample, Split, check_choice
from piclip.datasets.file_dataset import OverlappingDataset
from piclip.errors import DatasetError, UsageError
from piclip.io.images import IGNORE

Classes: TypeAlias = Literal["novel", "base"]
NovelPixels: TypeAlias = Literal["drop", "background"]
_Choice = TypeVar("_Choice")

_ORDER, _DRAW = 0, 1  # what the random numbers are for; the streams never meet


@dataclass(frozen=True)
class EpisodeKeys:
    """One few-shot task by the keys of its images."""

    class_index: int  # the class to segment
    query: str  # the image to segment; it shows the class
    supports: tuple[str, ...]  # K images that show the class, without the query


@dataclass(frozen=True)
class Episode:
    """One few-shot task with its images; ``sample.mask(class_index)`` is a sample's truth."""

    name: str  # the class in the dataset's words
    class_index: int  # the class to segment
    supports: tuple[Sample, ...]  # K labelled images that show it
    query: Sample  # the labelled image to segment


class FewShotView:
    """The novel or the base classes of a fold, in one split.

    An image counts for a class that covers at least ``minimum_pixels`` of its mask. A view of the
    base classes never shows a novel class: by default it leaves out every image with a single
    pixel of one, as BAM and HDMNet do when they train; ``novel_pixels="background"`` keeps these
    images and labels the novel pixels as background.

    Args:
        dataset: Where the images come from.
        fold: Which classes are novel.
        split: ``"train"`` or ``"val"``.
        classes: ``"novel"`` or ``"base"``.
        novel_pixels: ``"drop"`` or ``"background"``; of no effect on a view of novel classes.
        minimum_pixels: 1 or more; None takes the dataset's own (2048 for the benchmarks).
        minimum_images: Classes with fewer images that count are left out of the view. By default
            none is, and an episode of a class that has too few is an error.

    Attributes:
        classes: Class indices of the view, ascending.
        images_of: Keys of the images that count for a class, by class index.
        keys: Keys of the images that count for at least one of the classes, in order.

    Raises:
        UsageError: An argument is out of range, or the view has no class.
        DatasetError: No image counts for any class, or no class has ``minimum_images``.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        fold: int,
        split: Split,
        classes: Classes,
        novel_pixels: NovelPixels = "drop",
        minimum_pixels: int | None = None,
        minimum_images: int = 0,
    ) -> None:
        check_choice("split", split, get_args(Split))
        check_choice("kind of classes", classes, get_args(Classes))
        check_choice("rule of novel_pixels", novel_pixels, get_args(NovelPixels))
        self.dataset, self.fold, self.split = dataset, fold, split
        self.kind, self.novel_pixels = classes, novel_pixels
        self.minimum_pixels = dataset.minimum_pixels if minimum_pixels is None else minimum_pixels
        if self.minimum_pixels < 1:
            raise UsageError(f"minimum_pixels must be 1 or more, not {minimum_pixels}.")
        self.novel_classes = dataset.novel_classes(fold)
        every = range(len(dataset.class_names))
        self.base_classes = tuple(index for index in every if index not in self.novel_classes)

        wanted = self.novel_classes if classes == "novel" else self.base_classes
        if not wanted:
            raise UsageError(
                f"Fold {fold} of {dataset.name} has no base class, since every class is novel; "
                f"open the dataset with two folds or more."
            )
        counting = self._counts_for(wanted)
        self.images_of = {
            index: images for index, images in counting.items() if len(images) >= minimum_images
        }
        self.classes = tuple(self.images_of)
        self._classes_of: dict[str, list[int]] = {}
        for index, images in self.images_of.items():
            for key in images:
                self._classes_of.setdefault(key, []).append(index)
        self.keys = tuple(key for key in dataset.keys(split) if key in self._classes_of)
        if not self.keys:
            if most := max(map(len, counting.values())):
                raise DatasetError(
                    f"No {classes} class of fold {fold} has {minimum_images} images in the {split} "
                    f"split of {dataset.name}, the largest has {most}; lower minimum_images."
                )
            raise DatasetError(
                f"No image of the {split} split of {dataset.name} counts for a {classes} class of "
                f"fold {fold} ({self.minimum_pixels} pixels or more); label more images or lower "
                f"minimum_pixels."
            )
        self._scarcest = min(self.classes, key=lambda index: len(self.images_of[index]))

    def check_shots(self, shots: int) -> None:
        """Refuses a class of fewer than K + 1 images, however late it is drawn (DatasetError)."""
        found = len(self.images_of[self._scarcest])
        if found <= shots:
            raise DatasetError(
                f"The class {self.dataset.class_names[self._scarcest]!r} has {found} images of "
                f"{self.minimum_pixels} pixels or more in the {self.split} split of "
                f"{self.dataset.name}, but {shots}-shot episodes need {shots + 1}; label more "
                f"images, ask for fewer shots, or leave such classes out with "
                f"minimum_images={shots + 1}."
            )

    def episode(self, seed: int, index: int, shots: int) -> EpisodeKeys:
        """The episode number ``index`` of a seed: a pure function, the same on every machine.

        Queries come as the images do: ``len(keys)`` episodes in a row, counted from 0, ask for
        every image once, in an order of the seed; the class is one of those that the image counts
        for. Supports are drawn among the other images of the class; those of more shots begin
        with those of fewer.

        Args:
            seed: 0 or more.
            index: 0 or more.
            shots: Number K of supports, 1 or more.

        Raises:
            UsageError: An argument is out of range.
            DatasetError: A class of the view has fewer than K + 1 images.
        """
        if seed < 0 or index < 0 or shots < 1:
            raise UsageError(
                f"An episode needs a seed and an index of 0 or more and 1 shot or more, not seed "
                f"{seed}, index {index} and {shots} shots."
            )
        self.check_shots(shots)
        turn, place = divmod(index, len(self.keys))
        query = self.keys[int(_order(seed, turn, len(self.keys))[place])]
        # Only the raw stream of a bit generator is promised to stay the same in later versions.
        stream = np.random.PCG64([seed, index, _DRAW])
        class_index = _pick(stream, self._classes_of[query])
        images = self.images_of[class_index]
        supports: list[str] = []
        while len(supports) < shots:
            key = _pick(stream, images)
            if key != query and key not in supports:
                supports.append(key)
        return EpisodeKeys(class_index, query, tuple(supports))

    def load(self, episode: EpisodeKeys) -> Episode:
        """Reads the images of an episode; errors as of `Dataset.sample`."""
        return Episode(
            name=self.dataset.class_names[episode.class_index],
            class_index=episode.class_index,
            supports=tuple(self.sample(key) for key in episode.supports),
            query=self.sample(episode.query),
        )

    def sample(self, key: str) -> Sample:
        """One image as the view shows it: with ``"background"``, novel pixels are labelled 0."""
        sample = self.dataset.sample(key)
        if self.kind == "novel" or self.novel_pixels == "drop":
            return sample
        return sample.without(self.novel_classes)

    def _counts_for(self, classes: tuple[int, ...]) -> dict[int, tuple[str, ...]]:
        """Keys of the images that count for each class, in the dataset's order."""
        keys = self.dataset.keys(self.split)
        counting = self.dataset.shows(self.split, self.minimum_pixels)
        if self.kind == "base" and self.novel_pixels == "drop":
            novel = self.dataset.shows(self.split, 1)[:, list(self.novel_classes)]
            counting = counting & ~novel.any(axis=1, keepdims=True)
        return {
            index: tuple(keys[row] for row in np.flatnonzero(counting[:, index]))
            for index in classes
        }


@lru_cache(maxsize=8)
def _order(seed: int, turn: int, images: int) -> NDArray[np.int64]:
    """In which order the images are queries in one turn over all of them."""
    raw = np.random.PCG64([seed, turn, _ORDER]).random_raw(images)
    return np.argsort(raw, kind="stable")


def base_class_map(view: FewShotView, class_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels for the base learner, uint8 (H, W): ``k + 1`` for the class ``view.base_classes[k]``.

    Background and novel classes are 0, 255 is kept; ``class_map`` is one of the view's dataset.

    Raises:
        UsageError: The dataset has more classes than a uint8 map has values, or they overlap.
    """
    if isinstance(view.dataset, OverlappingDataset):
        raise UsageError(
            f"The classes of {view.dataset.name} lie over one another, so that a base learner "
            f"cannot tell them apart; choose a decoder without one, such as PFENet."
        )
    if len(view.dataset.class_names) > MOST_CLASSES:
        raise UsageError(
            f"{view.dataset.name} has {len(view.dataset.class_names)} classes, but a base learner "
            f"takes up to {MOST_CLASSES}; choose a decoder without one, such as PFENet."
        )
    labels = np.zeros(IGNORE + 1, dtype=np.uint8)
    labels[IGNORE] = IGNORE
    for label, index in enumerate(view.base_classes, start=1):
        labels[index + 1] = label
    return labels[class_map]


def _pick(stream: np.random.PCG64, choices: Sequence[_Choice]) -> _Choice:
    # 64 random bits modulo a few thousand: the bias is below 1e-15.
    return choices[int(stream.random_raw()) % len(choices)]
