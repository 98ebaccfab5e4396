"""The projects of Label Studio: what is labelled in each, what that teaches, what it finds."""

from __future__ import annotations

import hashlib
import logging
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from piclip.annotation.fitted import Lesson, choose_examples
from piclip.errors import ImageError, MaskError, PiclipError
from piclip.formats.label_files import Problems
from piclip.formats.labels import LabelledFile, Labels
from piclip.io.images import MAX_PIXELS, image_size, read_image
from piclip.label_studio.predictions import Answer, to_prediction
from piclip.label_studio.task_images import TaskImages
from piclip.label_studio.tasks import (
    LabellingConfig,
    Task,
    TaskSource,
    image_address,
    parse_config,
    read_labels,
)
from piclip.segmenter import FewShotSegmenter

UNLEARNED = "piclip-unlearned"  # model version while nothing is labelled

logger = logging.getLogger("piclip.label_studio")


@dataclass(frozen=True)
class Tools:
    """What all projects share: the model, where tasks and images come from, limits."""

    segmenter: FewShotSegmenter  # with nothing learned
    source: TaskSource
    images: TaskImages
    folder: Path  # for files; somebody else removes it
    threshold: float
    max_pixels: int = MAX_PIXELS
    closing: threading.Event = field(default_factory=threading.Event)  # set when the server ends

    @cached_property
    def model_hash(self) -> str:
        """Tells this model's predictions from those of another one."""
        return self.segmenter.scorer.fingerprint()

    def leave_if_closing(self) -> None:
        """Raise a PiclipError if the server ends; whatever takes long asks for it."""
        if self.closing.is_set():
            raise PiclipError("The server is ending; start it again and ask once more.")


class Backend:
    """Keeps the projects and does their work in a thread of its own, in the order of asking.

    When Label Studio connects without an event, what was read of the labels may be
    ``recheck_seconds`` old.
    """

    def __init__(self, tools: Tools, *, recheck_seconds: float = 60) -> None:
        self._tools = tools
        self._recheck_seconds = recheck_seconds
        self._projects: dict[str, Project] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="piclip")

    @property
    def versions(self) -> list[str]:
        """The versions of what is learned, each once."""
        known = (project.version for project in list(self._projects.values()))
        return list(dict.fromkeys(version for version in known if version is not None))

    def setup(self, number: str, config: str) -> Future[str]:
        """A project connects, which it does before every request for predictions.

        Label Studio tells every change of a label by an event. In case it cannot, the labels are
        read again here if that was long ago. The version is there at once if nothing has to be
        learned; a UsageError if the labelling configuration does not fit.
        """
        project = self._project(number, config)
        if time.monotonic() - project.read_at > self._recheck_seconds:
            project.stale = True
        return self._refresh(project)

    def predict(self, number: str, config: str, tasks: list[Task]) -> Future[list[Answer]]:
        """One answer per task to come, as `Project.predict`; errors as of `setup`."""
        return self._worker.submit(self._project(number, config).predict, tasks)

    def labels_changed(self, number: str) -> None:
        """Labels of a project were made, changed or deleted: learn anew, soon.

        A project that has never asked for anything is not learned for.
        """
        project = self._projects.get(number)
        if project is not None:
            project.stale = True
            self._refresh(project)

    def close(self) -> None:
        """Stop what is being done and forget what was asked."""
        self._tools.closing.set()
        self._worker.shutdown(cancel_futures=True)

    def _project(self, number: str, config: str) -> Project:
        parsed = parse_config(config)
        project = self._projects.get(number)
        if project is None:
            project = self._projects[number] = Project(number, parsed, self._tools)
        elif project.config != parsed:
            project.config = parsed
            project.stale = True
        return project

    def _refresh(self, project: Project) -> Future[str]:
        if project.version is not None and not project.stale and not project.learning:
            done: Future[str] = Future()
            done.set_result(project.version)
            return done
        return self._worker.submit(_logged, project)


def _logged(project: Project) -> str:
    """Learn, and log why that failed: often nobody waits for it."""
    try:
        return project.refresh()
    except PiclipError as error:
        logger.warning("Project %s: %s", project.number, error)
        raise
    except Exception:
        logger.exception("Project %s cannot be learned for.", project.number)
        raise


class Project:
    """Learns from the labelled tasks of a project and proposes regions for others.

    All but its attributes belong to one thread.
    """

    def __init__(self, number: str, config: LabellingConfig, tools: Tools) -> None:
        self.number = number
        self.config = config
        self.version: str | None = None  # of what was learned: the same for one model and labels
        self._tools = tools
        self.stale = True  # may the labels, or how they are made, have changed?
        self.learning = False
        self.read_at = -math.inf  # when the labels were, by time.monotonic
        self._segmenter = tools.segmenter.unfitted()
        self._examples: dict[str, list[LabelledFile]] = {}  # what the segmenter was fitted on
        # Projects of two Label Studios may have one number, but never share a server's folder.
        self._folder = Path(tempfile.mkdtemp(dir=tools.folder))

    def refresh(self) -> str:
        """Read the labels and learn them, if they may have changed; gives the version.

        A PiclipError if the labels cannot be read.
        """
        if not self.stale and self.version is not None:
            return self.version
        self.learning = True
        self.stale = False  # before reading: what changes meanwhile makes it stale again
        try:
            self._learn(self._read_labels())
            self.read_at = time.monotonic()
            self.version = self._version_now()
        except BaseException:
            self.stale = True
            raise
        finally:
            self.learning = False
        return self.version

    def predict(self, tasks: Sequence[Task]) -> list[Answer]:
        """Propose regions, with what can be learned now: one answer per task, in order.

        It is empty where nothing is learned or the image cannot be had (why is logged). If labels
        cannot be read and nothing was learned earlier, or the server ends, it is a PiclipError.
        """
        try:
            version = self.refresh()
        except PiclipError as error:
            if self.version is None:
                raise
            logger.warning("Project %s keeps what it has learned: %s", self.number, error)
            version = self.version
        answers = []
        for task in tasks:
            self._tools.leave_if_closing()
            answers.append(self._answer(task, version))
        return answers

    def _read_labels(self) -> Labels:
        files = []
        for index, task in enumerate(self._tools.source(self.number)):
            self._tools.leave_if_closing()
            problems = Problems()
            try:
                file = read_labels(task, self.config, problems)
            except PiclipError as error:
                logger.warning("Not learned from: %s", error)
                continue
            for sentence in problems.sentences:
                logger.warning("Not learned from: %s", sentence)
            if file is not None:
                number = task["id"] if isinstance(task.get("id"), int) else index
                source = hashlib.sha256(str(file.source).encode()).hexdigest()[:16]
                # Sorted by name they are in the order of the tasks; the image is copied later.
                files.append(replace(file, path=f"{number:010d}-{source}", id=number))
        names = dict.fromkeys(name for file in files for name in file.class_names)
        return Labels(tuple(sorted(names)), tuple(files))

    def _learn(self, labels: Labels) -> None:
        """Learn the classes whose examples have changed; what is known of the others stays."""
        chosen = choose_examples(labels) if labels.labelled else {}
        wanted = {file.path: file for files in chosen.values() for file in files}
        there = {path for path, file in wanted.items() if self._fetch_support(file)}
        examples = {
            name: kept
            for name, files in chosen.items()
            if (kept := [file for file in files if file.path in there])
        }
        for name in set(self._examples) - set(examples):
            self._segmenter.forget(name)
            del self._examples[name]
        for name, files in examples.items():
            self._tools.leave_if_closing()
            if self._examples.get(name) != files:
                lesson = Lesson(self._folder, {name: files})
                lesson.teach(self._segmenter, max_pixels=self._tools.max_pixels)
                self._examples[name] = files
        counts = ", ".join(f"{len(files)} of {name}" for name, files in examples.items())
        logger.info("Project %s: learned from %s.", self.number, counts or "nothing yet")

    def _fetch_support(self, file: LabelledFile) -> bool:
        """Have the intact image of a labelled task; if that fails, say why."""
        path = self._folder / file.path
        try:
            if not path.exists():
                self._tools.images.copy(file.source or "", file.id, path)
                try:  # now, not in the midst of learning
                    read_image(path, max_pixels=self._tools.max_pixels)
                except ImageError:
                    path.unlink()
                    raise
            if image_size(path) != file.size:
                raise MaskError("its image has another size than its labels; label it anew.")
        except PiclipError as error:
            reason = str(error).replace(str(path), "its image")
            logger.warning("Not learned from task %s: %s", file.id, reason)
            return False
        return True

    def _answer(self, task: Task, version: str) -> Answer:
        if not self._examples:
            return []
        path = self._folder / "query"
        number = task.get("id")
        try:
            address = image_address(task, self.config)
            self._tools.images.copy(address, number if isinstance(number, int) else None, path)
            [found] = self._segmenter.predict(
                [path], threshold=self._tools.threshold, max_pixels=self._tools.max_pixels
            )
            return to_prediction(found, self.config, version)
        except PiclipError as error:
            reason = str(error).replace(str(path), "its image")
            logger.warning("Nothing is proposed for task %s: %s", number, reason)
        except Exception:  # memory that does not suffice, for one; other tasks may be smaller
            logger.exception("Nothing is proposed for task %s:", number)
        finally:
            path.unlink(missing_ok=True)
        return []

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
