"""One project of Label Studio: what is labelled in it, what that teaches, what it finds."""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from piclip.annotation.fitted import choose_examples, learn
from piclip.errors import ImageError, MaskError, PiclipError
from piclip.formats.labels import LabelledFile, Labels
from piclip.io.images import MAX_PIXELS, image_size, read_image
from piclip.label_studio.config import LabellingConfig
from piclip.label_studio.encodings import KeepingEncoder, KeptEncodings
from piclip.label_studio.images import TaskImages
from piclip.label_studio.predictions import empty_prediction, to_prediction
from piclip.label_studio.source import Task, TaskSource, image_address, read_labels
from piclip.segmenter import FewShotSegmenter

UNLEARNED = "piclip-unlearned"
"""Model version while nothing is labelled."""

logger = logging.getLogger("piclip.label_studio")


@dataclass(frozen=True)
class Tools:
    """What all projects share.

    Attributes:
        encoder: The model.
        model_hash: Tells this model's predictions from those of another one.
        source: Where the labelled tasks come from.
        images: Where their images come from.
        folder: For files; somebody else removes it.
        threshold: Least score of a class, 0 to 1.
        max_pixels: Larger images are refused.
        closing: Set when the server ends; whatever takes long then stops.
    """

    encoder: KeepingEncoder
    model_hash: str
    source: TaskSource
    images: TaskImages
    folder: Path
    threshold: float
    max_pixels: int = MAX_PIXELS
    closing: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Close the connections."""
        self.images.close()


class Project:
    """Learns from the labelled tasks of a project and proposes regions for others.

    All but `mark_stale`, `current`, `age` and `version` belong to one thread.

    Attributes:
        config: How its images are labelled.
        version: Names what was learned: the same model and labels have the same version.
    """

    def __init__(self, number: str, config: LabellingConfig, tools: Tools) -> None:
        self.number = number
        self.config = config
        self.version: str | None = None
        self._tools = tools
        self._stale = True
        self._learning = False
        self._read_at = -math.inf
        self._segmenter = FewShotSegmenter(tools.encoder)
        self._encodings = KeptEncodings()
        self._examples: dict[str, list[LabelledFile]] = {}
        # Projects of two Label Studios may have one number, but never share a server's folder.
        self._folder = Path(tempfile.mkdtemp(dir=tools.folder))

    @property
    def current(self) -> bool:
        """Whether the version is that of the labels, as far as is known."""
        return self.version is not None and not self._stale and not self._learning

    @property
    def age(self) -> float:
        """Seconds since the labels were read."""
        return time.monotonic() - self._read_at

    def mark_stale(self, config: LabellingConfig | None = None) -> None:
        """The labels, or how they are made, may have changed."""
        if config is not None:
            self.config = config
        self._stale = True

    def refresh(self) -> str:
        """Read the labels and learn them, if they may have changed.

        Returns:
            The version.

        Raises:
            PiclipError: The labels cannot be read.
        """
        if not self._stale and self.version is not None:
            return self.version
        self._learning = True
        self._stale = False  # before reading: what changes meanwhile makes it stale again
        try:
            self._learn(self._read_labels())
            self._read_at = time.monotonic()
            self.version = self._version_now()
        except BaseException:
            self._stale = True
            raise
        finally:
            self._learning = False
        return self.version

    def predict(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Propose regions, with what can be learned now.

        Args:
            tasks: As Label Studio sends them.

        Returns:
            One prediction per task, in order; without regions where nothing is learned or the
            image cannot be had (why is logged).

        Raises:
            PiclipError: The labels cannot be read and nothing was learned earlier, or the server
                ends.
        """
        try:
            version = self.refresh()
        except PiclipError as error:
            if self.version is None:
                raise
            logger.warning("Project %s keeps what it has learned: %s", self.number, error)
            version = self.version
        predictions = []
        for task in tasks:
            self._leave_if_closing()
            predictions.append(self._prediction(task, version))
        return predictions

    def _read_labels(self) -> Labels:
        files = []
        for index, task in enumerate(self._tools.source.labelled_tasks(self.number)):
            self._leave_if_closing()
            try:
                file = read_labels(task, self.config)
            except PiclipError as error:
                logger.warning("Not learned from: %s", error)
                continue
            if file is not None:
                number = task["id"] if isinstance(task.get("id"), int) else index
                source = hashlib.sha256(str(file.source).encode()).hexdigest()[:16]
                # Sorted by name they are in the order of the tasks; the image is copied later.
                files.append(replace(file, path=f"{number:010d}-{source}", id=number))
        names = dict.fromkeys(name for file in files for name in file.class_names)
        return Labels(tuple(sorted(names)), tuple(files))

    def _learn(self, labels: Labels) -> None:
        """Learn the classes whose examples have changed; the others keep their memories."""
        chosen = choose_examples(labels) if labels.labelled else {}
        wanted = {file.path: file for files in chosen.values() for file in files}
        there = {path for path, file in wanted.items() if self._fetch_support(file)}
        examples = {
            name: kept
            for name, files in chosen.items()
            if (kept := [file for file in files if file.path in there])
        }
        for name in set(self._segmenter.classes) - set(examples):
            self._segmenter.forget(name)
            del self._examples[name]
        with self._tools.encoder.keeping(self._encodings):
            for name, files in examples.items():
                self._leave_if_closing()
                if self._examples.get(name) != files:
                    learn(
                        self._segmenter,
                        {name: files},
                        self._folder,
                        max_pixels=self._tools.max_pixels,
                    )
                    self._examples[name] = files
        counts = ", ".join(f"{len(files)} of {name}" for name, files in examples.items())
        logger.info("Project %s: learned from %s.", self.number, counts or "nothing yet")

    def _fetch_support(self, file: LabelledFile) -> bool:
        """Have the intact image of a labelled task; if that fails, say why."""
        path = self._folder / file.path
        try:
            if not path.exists():
                self._tools.images.copy(file.source or "", file.id, path)
                self._check_intact(path)
            if image_size(path) != file.size:
                raise MaskError("its image has another size than its labels; label it anew.")
        except PiclipError as error:
            reason = str(error).replace(str(path), "its image")
            logger.warning("Not learned from task %s: %s", file.id, reason)
            return False
        return True

    def _check_intact(self, path: Path) -> None:
        """Refuse an image that cannot be learned from now, not in the midst of learning."""
        try:
            read_image(path, max_pixels=self._tools.max_pixels)
        except ImageError:
            path.unlink()
            raise

    def _prediction(self, task: Task, version: str) -> dict[str, Any]:
        if not self._segmenter.classes:
            return empty_prediction(version)
        path = self._folder / "query"
        number = task.get("id")
        try:
            address = image_address(task, self.config)
            self._tools.images.copy(address, number if isinstance(number, int) else None, path)
            [found] = self._segmenter.predict(
                [path], threshold=self._tools.threshold, max_pixels=self._tools.max_pixels
            )
            return to_prediction(found, self.config, version, self._tools.threshold)
        except PiclipError as error:
            reason = str(error).replace(str(path), "its image")
            logger.warning("Nothing is proposed for task %s: %s", number, reason)
            return empty_prediction(version)
        except Exception:  # memory that does not suffice, for one; other tasks may be smaller
            logger.exception("Nothing is proposed for task %s:", number)
            return empty_prediction(version)
        finally:
            path.unlink(missing_ok=True)

    def _version_now(self) -> str:
        if not self._examples:
            return UNLEARNED
        content = hashlib.sha256()
        for part in (self._tools.model_hash, self._tools.threshold, self.config):
            content.update(repr(part).encode())
        for name in sorted(self._examples):
            for file in self._examples[name]:
                masks = [r.mask.counts for r in file.regions if r.class_name == name]
                content.update(repr((name, file.source, file.size, masks)).encode())
        return f"piclip-{content.hexdigest()[:12]}"

    def _leave_if_closing(self) -> None:
        if self._tools.closing.is_set():
            raise PiclipError("The server is ending; start it again and ask once more.")
