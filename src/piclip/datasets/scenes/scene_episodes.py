"""Episodes of the built-in world over all its classes, of scenes that no dataset holds."""

from __future__ import annotations

from itertools import count

from piclip.datasets.dataset import Sample
from piclip.datasets.few_shot import Episode, EpisodeKeys
from piclip.datasets.scenes import make_scene
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.errors import UsageError

# Far from the seeds that training draws from; a figure for calibration is never one for testing.
_QUERIES, _SUPPORTS, _ABSENT, _CALIBRATION = 1_000_000, 2_000_000, 3_000_000, 10_000_000
_MOST_SHOTS = 50


def scene_keys(seed: int, index: int, shots: int = 1, *, calibration: bool = False) -> EpisodeKeys:
    """The episode number ``index`` of a seed: a pure function, the same on every machine.

    Classes take turns, so any 20 episodes in a row hold every class once. The supports of more
    shots begin with those of fewer. A scene's key is its world and its number there.

    Args:
        seed: 0 or more.
        index: 0 or more.
        shots: Number K of supports, 1 to 50.
        calibration: Draw from the scenes that are set aside for choosing thresholds and weights.

    Raises:
        UsageError: shots out of range.
    """
    if not 1 <= shots <= _MOST_SHOTS:
        raise UsageError(f"An episode has 1 to {_MOST_SHOTS} supports, not {shots}.")
    world = seed + (_CALIBRATION if calibration else 0)
    numbers = range(_MOST_SHOTS * index, _MOST_SHOTS * index + shots)
    return EpisodeKeys(
        class_index=index % len(CLASS_NAMES),
        query=f"{_QUERIES + world}/{index}",
        supports=tuple(f"{_SUPPORTS + world}/{number}" for number in numbers),
    )


def absent_key(seed: int, index: int) -> str:
    """The key of a scene that does not hold the class of this episode and is in none itself."""
    keys = (f"{_ABSENT + seed}/{number}" for number in count(_MOST_SHOTS * index))
    return next(key for key in keys if not load_scene(key).mask(index % len(CLASS_NAMES)).any())


def load_scene(key: str, include: str | None = None) -> Sample:
    """Draws the scene of a key, which holds a class, or whatever comes."""
    world, number = key.split("/")
    scene = make_scene(int(world), int(number), include=include)
    return Sample(key, scene.image, scene.class_map)


def load_scenes(keys: EpisodeKeys) -> Episode:
    """Draws the scenes of an episode of `scene_keys`."""
    name = CLASS_NAMES[keys.class_index]
    supports = tuple(load_scene(key, name) for key in keys.supports)
    return Episode(name, keys.class_index, supports, load_scene(keys.query, name))


def scene_episode(seed: int, index: int, shots: int = 1, *, calibration: bool = False) -> Episode:
    """The episode of `scene_keys` with its scenes."""
    return load_scenes(scene_keys(seed, index, shots, calibration=calibration))
