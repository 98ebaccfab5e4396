"""The models that a page offers, loaded once and shared by all tabs."""

from __future__ import annotations

import threading

from piclip.clip.encoder import DEFAULT_MODEL, Encoder
from piclip.errors import ModelError

BUILTIN = "builtin"

_HINTS = {
    True: "The built-in model is **for trying only**: it knows drawn scenes, not photographs.",
    False: "A model of the hub is downloaded once, then works offline.",
}


def hint(model: str) -> str:
    """What to know about a model before trusting it, in one sentence of Markdown."""
    return _HINTS[model.strip() == BUILTIN]


class Models:
    """Loads models by name; the last one stays in memory."""

    def __init__(self, default: str = BUILTIN, *, any_model: bool = True) -> None:
        """Nothing is loaded yet.

        Args:
            default: What the page starts with: "builtin", a hub name or a folder.
            any_model: Whether people may name other models than ``choices``, folders of this
                computer included.
        """
        self.default = default
        self.any_model = any_model
        self._lock = threading.Lock()
        self._name: str | None = None
        self._encoder: Encoder | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The models offered, the default first."""
        offered = (self.default, BUILTIN, *((DEFAULT_MODEL,) if self.any_model else ()))
        return tuple(dict.fromkeys(offered))

    def load(self, name: str) -> Encoder:
        """The model of this name, from memory if it was the last one used.

        Raises:
            ModelError: It cannot be had, or this page does not offer it.
        """
        name = name.strip() or self.default
        if not self.any_model and name not in self.choices:
            raise ModelError(
                f"This page offers only {' and '.join(self.choices)}; whoever started it can "
                f"offer another one with --model."
            )
        with self._lock:
            if self._encoder is None or self._name != name:
                self._encoder = None  # makes room before the next one comes
                self._encoder, self._name = Encoder.from_pretrained(name), name
            return self._encoder
