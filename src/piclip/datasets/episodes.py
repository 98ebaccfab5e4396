"""Episodes of the built-in world: labelled supports, one query, one class."""

from __future__ import annotations

from dataclasses import dataclass

from piclip.datasets.scenes import Scene, make_scene
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.errors import UsageError

# Far from the seeds that training draws from; a figure for calibration is never one for testing.
_QUERIES, _SUPPORTS, _CALIBRATION = 1_000_000, 2_000_000, 10_000_000
_MOST_SHOTS = 50


@dataclass(frozen=True)
class Episode:
    """One few-shot task.

    Attributes:
        name: The class.
        supports: K scenes that show it, with their masks.
        query: The scene to segment; it shows the class too.
    """

    name: str
    supports: tuple[Scene, ...]
    query: Scene


def scene_episode(seed: int, index: int, shots: int = 1, *, calibration: bool = False) -> Episode:
    """The episode number ``index`` of a seed: a pure function, the same on every machine.

    Classes take turns, so any 20 episodes in a row hold every class once. The supports of more
    shots begin with those of fewer.

    Args:
        seed: 0 or more.
        index: 0 or more.
        shots: number K of supports, 1 to 50.
        calibration: draw from the scenes that are set aside for choosing thresholds and weights.

    Raises:
        UsageError: shots out of range.
    """
    if not 1 <= shots <= _MOST_SHOTS:
        raise UsageError(f"An episode has 1 to {_MOST_SHOTS} supports, not {shots}.")
    name = CLASS_NAMES[index % len(CLASS_NAMES)]
    world = seed + (_CALIBRATION if calibration else 0)
    supports = tuple(
        make_scene(_SUPPORTS + world, _MOST_SHOTS * index + shot, include=name)
        for shot in range(shots)
    )
    return Episode(name, supports, make_scene(_QUERIES + world, index, include=name))
