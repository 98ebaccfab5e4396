"""Trained decoders on disk: the folder of a training, or what ``save_pretrained`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piclip.decoders.networks import CONFIG, read_config
from piclip.errors import ModelError
from piclip.io.documents import read_json, read_yaml
from piclip.io.extras import needs_extra

RECIPE, RECORD = "recipe.yaml", "training.json"
_DECODER = "decoder"


@dataclass(frozen=True)
class Checkpoint:
    """What ``save_pretrained`` wrote, and its training's recipe; None for one from elsewhere."""

    folder: Path
    recipe: Mapping[str, Any] | None = None

    @classmethod
    def find(cls, folder: str | Path) -> Checkpoint:
        """Looks in a run's folder or the decoder's own; ModelError for none or a damaged recipe."""
        given = Path(folder).expanduser()
        decoder = given / _DECODER if (given / _DECODER).is_dir() else given
        if not decoder.is_dir():
            raise ModelError(
                f"{folder} is no folder; give the run of a finished training, a decoder's folder "
                f"or 'training-free'."
            )
        if decoder == given and (given / RECIPE).is_file() and not (given / CONFIG).exists():
            raise ModelError(
                f"The training in {folder} has no decoder/ yet; run piclip train again to finish "
                f"it."
            )
        read_config(decoder)
        return cls(decoder, _recipe_of(decoder))

    def value(self, *keys: str, default: object = None) -> Any:  # noqa: ANN401 - of many kinds
        """An entry of the recipe, or the default where there is no recipe."""
        entry: Any = self.recipe
        for key in keys:
            entry = entry.get(key) if isinstance(entry, Mapping) else None
        return default if entry is None else entry


def holds_decoder(folder: str | Path) -> bool:
    """Whether a folder is a training's or a decoder's, not a CLIP's; no error is raised."""
    given = Path(folder).expanduser()
    try:
        if (given / _DECODER).is_dir() or (given / RECIPE).is_file():
            return True
        return (given / CONFIG).is_file() and "decoder" in read_config(given)
    except (ModelError, OSError, ValueError):  # also a name that no file can have
        return False


def _recipe_of(decoder: Path) -> Mapping[str, Any] | None:
    """From the record in the decoder's folder, or the recipe beside it."""
    places = (decoder / RECORD, decoder / RECIPE, decoder.parent / RECIPE)
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return None
    is_record = path.name == RECORD
    try:
        with needs_extra("train", f"Reading {path.name}"):
            recipe = read_json(path)["recipe"] if is_record else read_yaml(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        kind = "the record of a training" if is_record else "a recipe"
        raise ModelError(f"{path} cannot be read as {kind}; train again.") from error
    if not isinstance(recipe, Mapping):
        raise ModelError(f"{path} holds no recipe; train again.")
    return recipe
