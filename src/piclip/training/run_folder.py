"""The folder of a training: recipe, checkpoint, results; each is there in full or not at all."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from piclip.errors import ModelError, OutputError, UsageError
from piclip.io.outputs import atomic_path, ensure_folder
from piclip.training.recipe import Recipe, load_recipe

FORMAT = 2
_FREE = ("device", "workers", "checkpoint_every", "log_every")  # do not change the result


class RunFolder:
    """Where a training keeps what it has."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.recipe = self.folder / "recipe.yaml"  # resolved
        self.checkpoint = self.folder / "checkpoint.pt"  # all that a resumed training starts from
        self.previous = self.folder / "checkpoint.previous.pt"
        self.best = self.folder / "best.pt"  # what validation liked best, if it is asked
        self.log = self.folder / "log"  # TensorBoard's
        self.base = self.folder / "base"  # the finished base learner
        self.decoder = self.folder / "decoder"  # the result

    def open(self, recipe: Recipe) -> None:
        """Starts the folder, or checks that it belongs to this recipe.

        Raises:
            UsageError: The folder holds a training with another recipe.
            OutputError: The folder cannot be written.
        """
        kept = (self.checkpoint, self.previous, self.base, self.decoder)
        started = any(path.exists() for path in kept)  # a recipe that failed before may be changed
        if self.recipe.exists() and started:
            there, here = _flat(load_recipe(self.recipe).to_json()), _flat(recipe.to_json())
            changed = {key for key in there.keys() | here.keys() if there.get(key) != here.get(key)}
            if changed := changed.difference(_FREE):
                key = min(changed)
                raise UsageError(
                    f"{self.folder} holds a training with another recipe ({key} is "
                    f"{there.get(key)!r} there and {here.get(key)!r} here); choose another output "
                    f"folder."
                )
        ensure_folder(self.folder)
        with atomic_path(self.recipe) as path:
            path.write_text(recipe.to_yaml(), encoding="utf-8")

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; the one before it stays until this one is complete, and after.

        Raises:
            OutputError: It cannot be written; the checkpoints so far are left as they were.
        """
        with atomic_path(self.checkpoint) as path:
            path.write_bytes(_encoded(state))
            if self.checkpoint.exists():
                self.checkpoint.replace(self.previous)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint on the CPU, None where there is none; ModelError if it is damaged."""
        # Without a checkpoint but with its predecessor, a kill came between the two renames.
        for path in (self.checkpoint, self.previous):
            if path.exists():
                return self._read(path)
        return None

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Writes the best weights so far, in place of older ones."""
        with atomic_path(self.best) as path:
            path.write_bytes(_encoded(state))

    def load_best(self) -> dict[str, Any]:
        """The best weights; ModelError where they are missing or damaged."""
        return self._read(self.best)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError
        except Exception as error:  # torch.load raises nearly anything for a damaged file
            instead = "start over"
            if path == self.checkpoint and self.previous.exists():
                instead = f"continue from {self.previous.name}"
            raise ModelError(
                f"The checkpoint {path} is damaged or of another version; delete it and run the "
                f"same command again to {instead}."
            ) from error
        return state


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the target's name once all is in it (OutputError)."""
    from safetensors import SafetensorError  # noqa: PLC0415

    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{target} cannot be written ({error}); free some space and run the same command "
            f"again: nothing of the training is lost."
        ) from error


def _encoded(state: Mapping[str, Any]) -> bytes:
    # In memory first: a full disk then fails in one write, with its errno.
    data = io.BytesIO()
    torch.save({"format": FORMAT, **state}, data)
    return data.getvalue()


def _flat(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{at}{name}.")
        else:
            flat[f"{at}{name}"] = value
    return flat
