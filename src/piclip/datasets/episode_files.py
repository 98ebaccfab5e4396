"""Episodes in a JSON file, so that two methods answer the very same questions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piclip.datasets.dataset import Dataset
from piclip.datasets.few_shot import EpisodeKeys, FewShotView
from piclip.datasets.protocols import OURS, Protocol, protocol_named
from piclip.errors import DatasetError, UsageError
from piclip.io.documents import read_json
from piclip.io.outputs import write_json

FORMAT = 1


@dataclass(frozen=True)
class EpisodeFile:
    """What an episode file holds: the view's and the protocol's names, and the episodes."""

    dataset: str
    fold: int
    split: str  # train or val
    classes: str  # novel or base
    minimum_pixels: int  # the rule by which images counted
    seed: int
    shots: int
    class_names: dict[int, str]  # of the view, by class index
    episodes: tuple[EpisodeKeys, ...]
    hash: str  # `episodes_hash` of the episodes
    protocol: str = OURS.name  # files of old versions name none

    def check(self, dataset: Dataset) -> None:
        """Refuses a dataset that does not hold what the episodes ask for.

        Raises:
            UsageError: It is another dataset, calls a class otherwise or lacks images.
        """
        if dataset.name != self.dataset:
            raise UsageError(
                f"The episodes are of {self.dataset}, not of {dataset.name}; open that dataset or "
                f"draw other episodes."
            )
        for index, name in self.class_names.items():
            here = dataset.class_names[index] if index < len(dataset.class_names) else None
            if here != name:
                raise UsageError(
                    f"Class {index} is {name!r} in the episodes but {here!r} in {dataset.name}; "
                    f"open the dataset that they were drawn from."
                )
        there = set(dataset.keys("train" if self.split == "train" else "val"))
        asked = {key for e in self.episodes for key in (e.query, *e.supports)}
        missing = sorted(asked - there)
        if missing:
            raise UsageError(
                f"{len(missing)} of the {len(asked)} images of the episodes are not in the "
                f"{self.split} split of {dataset.name} (the first is {missing[0]!r}); complete the "
                f"dataset or draw other episodes."
            )

    def check_view(self, view: FewShotView) -> None:
        """Sees to it that the episodes can be asked in a view.

        Raises:
            UsageError: As of `check`, or it is of another fold, split or kind of classes.
        """
        self.check(view.dataset)
        for name, own in (("fold", view.fold), ("split", view.split), ("classes", view.kind)):
            if getattr(self, name) != own:
                raise UsageError(
                    f"The episodes of the file are for the {name} {getattr(self, name)}, not "
                    f"{own}; evaluate that one or give another file."
                )
        foreign = {key.class_index for key in self.episodes} - set(view.classes)
        if foreign:
            name = view.dataset.class_names[min(foreign)]
            raise UsageError(
                f"The episodes of the file ask for {name!r}, which is no {view.kind} class of fold "
                f"{view.fold} here; draw other episodes."
            )


def episodes_hash(
    episodes: Iterable[EpisodeKeys], class_names: Sequence[str] | Mapping[int, str]
) -> str:
    """SHA-256 of classes (by name), queries and supports, in order: equal for equal questions."""
    digest = hashlib.sha256()
    for episode in episodes:
        row = [class_names[episode.class_index], episode.query, *episode.supports]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def write_episodes(
    path: str | Path,
    view: FewShotView,
    seed: int,
    count: int,
    shots: int,
    protocol: Protocol = OURS,
) -> str:
    """Draws the first episodes of a seed and writes them to a JSON file; gives their hash.

    Raises:
        UsageError, DatasetError: As `Protocol.episodes`.
        OutputError: The file cannot be written.
    """
    episodes = protocol.episodes(view, seed, count, shots)
    names = view.dataset.class_names
    file = EpisodeFile(
        dataset=view.dataset.name,
        fold=view.fold,
        split=view.split,
        classes=view.kind,
        minimum_pixels=view.minimum_pixels,
        seed=seed,
        shots=shots,
        class_names={index: names[index] for index in view.classes},
        episodes=episodes,
        hash=episodes_hash(episodes, names),
        protocol=protocol.name,
    )
    rows = [[e.class_index, e.query, *e.supports] for e in episodes]
    write_json({"format": FORMAT, "kind": "episodes", **vars(file), "episodes": rows}, path)
    return file.hash


def read_episodes(path: str | Path) -> EpisodeFile:
    """Reads an episode file; `EpisodeFile.check` then tells whether a dataset fits.

    Raises:
        DatasetError: The file is missing, damaged, changed by hand, asks for a query that is
            among its supports, or for one support twice where its protocol does not.
        UsageError: It names a protocol that there is not.
    """
    try:
        content: Any = read_json(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise DatasetError(f"{path} is no intact JSON ({error}); write it anew.") from error
    if not isinstance(content, dict) or content.get("kind") != "episodes":
        raise DatasetError(f"{path} is no file of episodes; give one that write_episodes made.")
    if content.get("format") != FORMAT:
        raise DatasetError(
            f"{path} has the format {content.get('format')}, not {FORMAT}; write it anew."
        )
    try:
        file = _parse(content)
        state = episodes_hash(file.episodes, file.class_names)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path} lacks a part ({error!r}); write it anew.") from error
    if state != file.hash:
        raise DatasetError(
            f"{path}: the episodes are not those that the hash was made of; write the file anew."
        )
    repeats = protocol_named(file.protocol).repeats
    for number, episode in enumerate(file.episodes):
        least = 1 if repeats else file.shots
        supports = episode.supports
        if len(supports) != file.shots or len({*supports}) < least or episode.query in supports:
            raise DatasetError(
                f"{path}: episode {number} has not {file.shots} {'' if repeats else 'different '}"
                f"supports beside its query; write the file anew."
            )
    return file


def _parse(content: dict[str, Any]) -> EpisodeFile:
    texts, numbers = "dataset split classes hash", "fold minimum_pixels seed shots"
    fields: dict[str, Any] = {name: str(content[name]) for name in texts.split()}
    return EpisodeFile(
        **fields | {name: int(content[name]) for name in numbers.split()},
        class_names={int(index): str(name) for index, name in content["class_names"].items()},
        episodes=tuple(
            EpisodeKeys(int(index), str(query), tuple(map(str, supports)))
            for index, query, *supports in content["episodes"]
        ),
        protocol=str(content.get("protocol", OURS.name)),
    )
