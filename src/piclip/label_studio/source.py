"""Where the labelled tasks come from: Label Studio's API, or an export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from piclip.errors import PiclipError, UsageError
from piclip.formats import labelstudio
from piclip.formats.extras import library
from piclip.formats.json_files import load_json
from piclip.formats.labels import LabelledFile
from piclip.label_studio.config import LabellingConfig

Task = dict[str, Any]
"""A task as Label Studio writes it: id, data, annotations."""

_PAGE = 50
_SECONDS = 60


class TaskSource(Protocol):
    """Gives the tasks of a project that have annotations."""

    def labelled_tasks(self, project_id: str) -> Iterator[Task]:
        """Read the tasks anew.

        Raises:
            PiclipError: They cannot be had.
        """
        ...


class ExportFile:
    """A JSON export; it stands for every project."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def labelled_tasks(self, project_id: str) -> Iterator[Task]:
        """See `TaskSource`."""
        tasks = load_json(self._path)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise UsageError(
                f"{self._path}: this is not a list of tasks; export from Label Studio as JSON, "
                f"not JSON-MIN."
            )
        yield from tasks


class LabelStudioApi:
    """The API of a running Label Studio.

    Args:
        url: Its address.
        api_key: A legacy token or a personal access token.

    Raises:
        UsageError: The address or the key cannot be right, or the SDK is not installed.
    """

    def __init__(self, url: str, api_key: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url {url} is no address; write it as in http://localhost:8080.")
        self.url = url.rstrip("/")
        client = library("label_studio_sdk.client").LabelStudio
        try:
            self._client = client(base_url=self.url, api_key=api_key, timeout=_SECONDS)
        except Exception as error:  # the SDK looks into tokens and raises what it finds
            raise UsageError(
                "The --api-key is no valid token of Label Studio, or has expired; make a new one "
                "in your account's settings there."
            ) from error

    def headers(self) -> Mapping[str, str]:
        """The headers that let us in.

        Raises:
            PiclipError: Label Studio gives no access for the key.
        """
        try:
            # Only here the SDK turns personal access tokens into ones that open doors.
            headers: dict[str, str] = self._client._client_wrapper.get_headers()
        except Exception as error:
            raise self._failed(error) from error
        return {"Authorization": headers["Authorization"]}

    def labelled_tasks(self, project_id: str) -> Iterator[Task]:
        """See `TaskSource`."""
        try:
            number = int(project_id)
        except ValueError as error:
            raise UsageError(f"The project {project_id!r} is no number of Label Studio.") from error
        try:
            for task in self._client.tasks.list(
                project=number,
                only_annotated=True,
                resolve_uri=False,
                fields="all",
                page_size=_PAGE,
            ):
                yield task.dict() if hasattr(task, "dict") else task
        except Exception as error:  # of the SDK, of httpx, of pydantic
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> PiclipError:
        status = getattr(error, "status_code", None)
        if status in {401, 403}:
            return PiclipError(
                f"Label Studio at {self.url} does not let us in (status {status}); check --api-key."
            )
        why = f"status {status}" if status else " ".join(str(error).split())[:200]
        return PiclipError(
            f"The labelled tasks cannot be read from Label Studio at {self.url} "
            f"({why or type(error).__name__}); check --url, and that it is running."
        )


def image_address(task: Task, config: LabellingConfig) -> str:
    """Where the image of a task is.

    Raises:
        UsageError: The task does not say.
    """
    data = task.get("data")
    address = data.get(config.field) if isinstance(data, dict) else None
    if not isinstance(address, str) or not address:
        raise UsageError(f"The task {task.get('id')} has no image in its data.{config.field}.")
    return address


def read_labels(task: Task, config: LabellingConfig) -> LabelledFile | None:
    """The labelled regions of a task.

    Args:
        task: With its annotations.
        config: Regions of other images of the task and of unknown classes are left out.

    Returns:
        The labels, with the image's address as ``source``; None without any region.

    Raises:
        UsageError: The task or its annotation is malformed.
        MaskError: A region is empty or damaged.
    """
    annotations = task.get("annotations") or []
    if isinstance(annotations, list):
        annotations = [_only(config.image, annotation) for annotation in annotations]
    # The format's reader knows the image under one name; its address is used as it is.
    plain = {"data": {"image": "image"}, "annotations": annotations}
    file = labelstudio.from_task(plain, f"task {task.get('id')}")
    if file is None:
        return None
    known = tuple(r for r in file.regions if config.control_for(r.class_name) is not None)
    return replace(file, regions=known, source=image_address(task, config)) if known else None


def _only(image: str, annotation: Any) -> Any:  # noqa: ANN401  (from JSON; checked by the format)
    results = annotation.get("result") if isinstance(annotation, dict) else None
    if not isinstance(results, list):
        return annotation
    kept = [r for r in results if not isinstance(r, dict) or r.get("to_name", image) == image]
    return {**annotation, "result": kept}
