"""Protocols of evaluation: how episodes are drawn, and how answers to them are measured.

``ours`` is the default. ``pfenet`` and ``hsnet`` follow the public test code of the two families
that most published figures come from; `docs/protocols.md` has them side by side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from piclip.datasets.dataset import check_choice
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.hsnet import draw_hsnet
from piclip.errors import UsageError

Draw: TypeAlias = Callable[[FewShotView, int, int, int], tuple[EpisodeKeys, ...]]
"""The first episodes of a seed; takes the view, the seed, their number and the shots."""

_MOST_SEEDS = 2**32  # of the generators of NumPy and torch that published code seeds
_PFENET_WORKERS = 8  # processes that load images in the published configurations


@dataclass(frozen=True)
class Measure:
    """How an answer is compared with the truth.

    Attributes:
        side: Both are stretched to a square of so many pixels first; None keeps the labels' size.
        ignore: Whether pixels labelled 255 count nowhere; otherwise they are background.
    """

    side: int | None = None
    ignore: bool = True


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn and how the results are measured.

    Attributes:
        name: What commands and files call it.
        draw: Draws episodes; `episodes` checks the arguments first.
        seeds: The first seeds, so many as it is asked for.
        repetitions: How many seeds the published code takes.
        counts: Episodes of each seed by dataset; 1000 on others.
        repeats: Whether a support may come twice in one episode.
        side: See `Measure`.
        ignoring: Datasets in which pixels labelled 255 count nowhere; None: in all.
        unseen_is_zero: Whether a class without any episode has an IoU of 0 in the mIoU; otherwise
            it is left out.
    """

    name: str
    draw: Draw
    seeds: Callable[[int], tuple[int, ...]]
    repetitions: int
    counts: Mapping[str, int] = field(default_factory=dict)
    repeats: bool = False
    side: int | None = None
    ignoring: tuple[str, ...] | None = None
    unseen_is_zero: bool = False

    def count(self, dataset: str) -> int:
        """Episodes of each seed on a dataset."""
        return self.counts.get(dataset, 1000)

    def measure(self, dataset: str) -> Measure:
        """How answers on a dataset are measured."""
        return Measure(self.side, self.ignoring is None or dataset in self.ignoring)

    def episodes(
        self, view: FewShotView, seed: int, count: int, shots: int
    ) -> tuple[EpisodeKeys, ...]:
        """The first episodes of a seed: a pure function, the same on every machine.

        Args:
            view: What to draw from.
            seed: 0 or more.
            count: 1 or more; fewer are the beginning of more.
            shots: Supports of each, 1 or more.

        Raises:
            UsageError: An argument is out of range, or the protocol has no rules for the dataset.
            DatasetError: A class has too few images, or a list of the protocol is missing.
        """
        if not 0 <= seed < _MOST_SEEDS or min(count, shots) < 1:
            raise UsageError(
                f"Episodes need a seed from 0 to {_MOST_SEEDS - 1} and one shot and one episode at "
                f"least, not seed {seed}, {shots} shots and {count} episodes."
            )
        return self.draw(view, seed, count, shots)


def draw_ours(view: FewShotView, seed: int, count: int, shots: int) -> tuple[EpisodeKeys, ...]:
    """Every image that counts is a query once before any is again; see `FewShotView.episode`."""
    return tuple(view.episode(seed, index, shots) for index in range(count))


def draw_pfenet(view: FewShotView, seed: int, count: int, shots: int) -> tuple[EpisodeKeys, ...]:
    """The episodes of the test code of PFENet, BAM, HDMNet and PI-CLIP.

    Queries are the images of the view in the order of its list, over and over. The class is any of
    the view's that the query shows with a single pixel or more; the supports are different images
    that count for the class, without the query.

    The random numbers are theirs, too: image i is loaded by the process i modulo 8 of a
    ``DataLoader``, which seeds Python's generator anew in every pass over the list, with a number
    of torch's generator plus its own. Every support costs one number that is thrown away.
    """
    view.check_shots(shots)
    shown = dict(zip(view.dataset.keys(view.split), view.dataset.shows(view.split, 1), strict=True))
    classes_of = {key: [c for c in view.classes if shown[key][c]] for key in view.keys}
    bases, episodes = np.random.RandomState(seed), list[EpisodeKeys]()
    while len(episodes) < count:
        base = _dataloader_seed(bases)
        streams = [random.Random(base + worker) for worker in range(_PFENET_WORKERS)]
        for place, query in enumerate(view.keys):
            stream = streams[place % _PFENET_WORKERS]
            class_index = classes_of[query][stream.randrange(len(classes_of[query]))]
            images = view.images_of[class_index]
            supports: list[str] = []
            for _ in range(shots):
                stream.randrange(len(images))
                key = query
                while key == query or key in supports:
                    key = images[stream.randrange(len(images))]
                supports.append(key)
            episodes.append(EpisodeKeys(class_index, query, tuple(supports)))
    return tuple(episodes[:count])


def _dataloader_seed(generator: np.random.RandomState) -> int:
    """63 bits, as torch's generator gives a ``DataLoader`` after the same seed (both MT19937)."""
    high, low = generator.randint(0, 2**32, 2, dtype=np.uint32).tolist()
    return int((high << 32 | low) % 2**63)


def _pfenet_seeds(count: int) -> tuple[int, ...]:
    """510, 365, 382, 322, 988, ...: what BAM's five and HDMNet's ten runs are seeded with."""
    return tuple(np.random.RandomState(123).randint(0, 1000, count).tolist())


def _counted_seeds(count: int) -> tuple[int, ...]:
    return tuple(range(count))


OURS = Protocol("ours", draw_ours, _counted_seeds, repetitions=5)
PFENET = Protocol(
    "pfenet",
    draw_pfenet,
    _pfenet_seeds,
    repetitions=10,
    counts={"coco-20i": 10000},
    unseen_is_zero=True,
)
HSNET = Protocol(
    "hsnet",
    draw_hsnet,
    OURS.seeds,
    repetitions=1,
    counts={"fss-1000": 2400},
    repeats=True,
    side=400,
    ignoring=("pascal-5i",),
    unseen_is_zero=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (OURS, PFENET, HSNET)}
"""The protocols by name."""


def protocol_named(name: str, splits: Path | None = None) -> Protocol:
    """A protocol by its name; ``splits`` is the folder of the lists that ``hsnet`` draws from.

    Raises:
        UsageError: There is no such protocol, or it needs no lists.
    """
    check_choice("protocol", name, PROTOCOLS)
    if splits is None:
        return PROTOCOLS[name]
    if name != HSNET.name:
        raise UsageError(f"The protocol {name} needs no split files; leave {splits} out.")
    return replace(HSNET, draw=partial(draw_hsnet, splits=splits))
