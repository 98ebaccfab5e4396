"""All projects that one server works for, one piece of work after the other."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from piclip.errors import PiclipError
from piclip.label_studio.config import parse_config
from piclip.label_studio.project import Project, Tools
from piclip.label_studio.source import Task

RECHECK_SECONDS = 60.0
"""How old what was read of the labels may be when Label Studio connects without an event."""

logger = logging.getLogger("piclip.label_studio")


class Backend:
    """Keeps the projects and does their work in a thread of its own, in the order of asking.

    Args:
        tools: What the projects share.
        recheck_seconds: See ``RECHECK_SECONDS``.
    """

    def __init__(self, tools: Tools, *, recheck_seconds: float = RECHECK_SECONDS) -> None:
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
        read again here if that was long ago.

        Returns:
            The version to come; there at once if nothing has to be learned.

        Raises:
            UsageError: The labelling configuration does not fit.
        """
        project = self._project(number, config)
        if project.age > self._recheck_seconds:
            project.mark_stale()
        return self._refresh(project)

    def predict(self, number: str, config: str, tasks: list[Task]) -> Future[list[dict[str, Any]]]:
        """One prediction per task to come; see `Project.predict`.

        Raises:
            UsageError: The labelling configuration does not fit.
        """
        return self._worker.submit(self._project(number, config).predict, tasks)

    def labels_changed(self, number: str) -> None:
        """Labels of a project were made, changed or deleted: learn anew, soon.

        A project that has never asked for anything is not learned for.
        """
        project = self._projects.get(number)
        if project is not None:
            project.mark_stale()
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
            project.mark_stale(parsed)
        return project

    def _refresh(self, project: Project) -> Future[str]:
        if project.current and project.version is not None:
            done: Future[str] = Future()
            done.set_result(project.version)
            return done
        future = self._worker.submit(project.refresh)
        future.add_done_callback(lambda done: _tell(project, done))
        return future


def _tell(project: Project, done: Future[str]) -> None:
    """Log why learning failed: often nobody waits for it."""
    error = None if done.cancelled() else done.exception()
    if isinstance(error, PiclipError):
        logger.warning("Project %s: %s", project.number, error)
    elif error is not None:
        logger.error("Project %s cannot be learned for.", project.number, exc_info=error)
