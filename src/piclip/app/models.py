"""The models that a page offers, loaded once and shared by all tabs."""

from __future__ import annotations

import re
import tempfile
import threading
from pathlib import Path

from piclip.clip.encoder import DEFAULT_MODEL, Encoder
from piclip.clip.hub import hub_folder
from piclip.errors import ModelError
from piclip.segmenter import FewShotSegmenter

BUILTIN = "builtin"

_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def hint(model: str) -> str:
    """What to know about a model before trusting it, in one sentence of Markdown."""
    if model.strip() == BUILTIN:
        return "The built-in model is **for trying only**: it knows drawn scenes, not photographs."
    return "A model of the hub is downloaded once, then works offline. A folder stays where it is."


class Models:
    """Loads models by name; the last one stays in memory.

    The page starts with ``default``, which like ``visual`` and ``clip`` is as
    `FewShotSegmenter.from_pretrained` takes it. With ``any_model`` people may name other models of
    the hub than ``choices``, and with ``local_models`` folders and files of this computer, too.
    """

    def __init__(
        self,
        default: str = BUILTIN,
        *,
        visual: str | None = None,
        clip: str | None = None,
        any_model: bool = True,
        local_models: bool = False,
    ) -> None:
        self.default = default
        self.any_model = any_model
        self.local_models = any_model and local_models
        self._visual, self._clip = visual, clip
        self._lock = threading.Lock()
        self._name: str | None = None
        self._model: FewShotSegmenter | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The models offered, the default first."""
        offered = (self.default, BUILTIN, *((DEFAULT_MODEL,) if self.any_model else ()))
        return tuple(dict.fromkeys(offered))

    def load(self, name: str) -> FewShotSegmenter:
        """The model of this name, from memory if it was the last one used.

        A ModelError if it cannot be had, or this page does not offer it.
        """
        name = name.strip() or self.default
        if not self.any_model and name not in self.choices:
            raise ModelError(
                f"This page offers only {' and '.join(self.choices)}; whoever started it can "
                f"offer another one with --model."
            )
        with self._lock:
            if self._model is None or self._name != name:
                self._model = None  # makes room before the next one comes
                self._model, self._name = self._loaded(name), name
            return self._model

    def _loaded(self, name: str) -> FewShotSegmenter:
        """What is written as on the hub is looked for there only, and taken as a CLIP only."""
        if name == self.default:
            return FewShotSegmenter.from_pretrained(name, visual=self._visual, clip=self._clip)
        if name == BUILTIN:
            return FewShotSegmenter.from_pretrained(name)
        if _HUB_NAME.fullmatch(name):
            return FewShotSegmenter(Encoder.from_pretrained(hub_folder(name)))
        return FewShotSegmenter.from_pretrained(self._local(name))

    def _local(self, name: str) -> Path:
        """The folder or file of a model that somebody named on the page.

        No answer depends on files that may not be named: nobody may learn which there are.
        """
        if not self.local_models:
            raise ModelError(
                f"This page takes models of the hub, written as in {DEFAULT_MODEL}, not {name}; "
                f"whoever started it can offer folders and files with --local-models."
            )
        try:
            path = Path(name).expanduser().resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, NUL
            raise ModelError(f"{name!r} is no path; check the path of the model.") from error
        # Uploads are there too; what somebody else put there is not to be read as a model.
        if path.is_relative_to(Path(tempfile.gettempdir()).resolve()):
            raise ModelError(
                f"{name} is in the folder for temporary files, from which this page takes no "
                f"models; move it elsewhere."
            )
        return path
