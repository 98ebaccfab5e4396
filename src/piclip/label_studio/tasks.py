"""What a project says: where its regions go, and its labelled tasks by API or from an export."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import httpx

from piclip.errors import PiclipError, UsageError
from piclip.formats import labelstudio
from piclip.formats.label_files import Problems
from piclip.formats.labels import LabelledFile
from piclip.io.extras import library
from piclip.label_studio.bounded_client import bounded_client

Task = dict[str, Any]  # a task as Label Studio writes it: id, data, annotations

TaskSource = Callable[[str], Iterable[Task]]
"""Reads the tasks of a project that have annotations anew; a PiclipError if they cannot be had."""

MOST_PAGE_BYTES = 200_000_000  # of an answer of the API, a page of tasks with their annotations

_GEOMETRIES = ("brushlabels", "polygonlabels")  # tags that label masks, the better one first

_ADVICE = (
    "the labelling interface needs an <Image> whose value is a field such as $image, and "
    "<BrushLabels> or <PolygonLabels> for it"
)
_PAGE = 50
_HAS_LABELS = {
    "filter": "filter:tasks:total_annotations",
    "operator": "greater",
    "type": "Number",
    "value": 0,
}
_LABELLED = json.dumps({"filters": {"conjunction": "and", "items": [_HAS_LABELS]}})
"""As the Data Manager filters; the API's ``only_annotated`` does nothing in the open edition."""

_SECONDS = 60


@dataclass(frozen=True)
class Control:
    """A tag with which people label regions."""

    kind: str  # "brushlabels" or "polygonlabels"
    name: str  # how results call it (from_name)
    class_names: tuple[str, ...] | None  # that it offers; None if each task brings its own


@dataclass(frozen=True)
class LabellingConfig:
    """How the images of a project are labelled."""

    field: str  # of a task's data, in which the image's address is
    image: str  # how results call the image (to_name)
    controls: tuple[Control, ...]  # brushes first

    def control_for(self, class_name: str) -> Control | None:
        """The tag for regions of a class, a brush if there is one; None for an unknown class."""
        for control in self.controls:
            if control.class_names is None or class_name in control.class_names:
                return control
        return None


def parse_config(xml: str) -> LabellingConfig:
    """The first image of a labelling configuration that regions can be drawn on, and its tags.

    A UsageError if this is no XML, or nothing in it labels regions of an image.
    """
    interface = library("label_studio_sdk.label_interface").LabelInterface
    try:
        tags = list(interface(xml).controls)
    except Exception as error:  # the SDK raises anything on a broken configuration
        raise UsageError(f"The labelling configuration cannot be read: {_ADVICE}.") from error
    found = sorted(
        (_GEOMETRIES.index(tag.tag.lower()), target.name, tag, target)
        for tag in tags
        if tag.tag.lower() in _GEOMETRIES
        for target in tag.objects
        if target.tag.lower() == "image" and target.value_is_variable
    )
    if not found:
        raise UsageError(f"Regions cannot be proposed for this project: {_ADVICE}.")
    target = found[0][-1]
    controls = tuple(
        Control(tag.tag.lower(), tag.name, None if tag.dynamic_value else tuple(tag.labels))
        for *_, tag, other in found
        if other.name == target.name
    )
    return LabellingConfig(target.value_name, target.name, controls)


class LabelStudioApi:
    """The API of a running Label Studio, asked with a personal access token or a legacy one.

    A UsageError if the address or the key cannot be right, or the SDK is not installed.
    """

    def __init__(self, url: str, api_key: str) -> None:
        if not _is_web_address(url):
            raise UsageError(f"--url {url} is no address; write it as in http://localhost:8080.")
        self.url = url.rstrip("/")
        client = library("label_studio_sdk.client").LabelStudio
        try:
            self._client = client(
                base_url=f"{self.url}/",  # else the SDK asks for keys above a path
                api_key=api_key,
                timeout=_SECONDS,
                httpx_client=bounded_client(MOST_PAGE_BYTES, follow_redirects=True),
            )
        except Exception as error:  # the SDK looks into tokens and raises what it finds
            raise UsageError(
                "The --api-key is no valid token of Label Studio, or has expired; make a new one "
                "in your account's settings there."
            ) from error

    def headers(self) -> Mapping[str, str]:
        """The headers that let us in (PiclipError if Label Studio gives no access for the key)."""
        try:
            # Only here the SDK turns personal access tokens into ones that open doors.
            headers: dict[str, str] = self._client._client_wrapper.get_headers()
        except Exception as error:
            raise self._failed(error) from error
        return {"Authorization": headers["Authorization"]}

    def labelled_tasks(self, project: str) -> Iterator[Task]:
        """See `TaskSource`."""
        try:
            number = int(project)
        except ValueError as error:
            raise UsageError(f"The project {project!r} is no number of Label Studio.") from error
        try:
            pages = self._client.tasks.list(
                project=number, query=_LABELLED, resolve_uri=False, fields="all", page_size=_PAGE
            )
            # The SDK would find the end by the error that a page after the last one is.
            for task in islice(pages, pages.response.total):
                yield task.dict() if hasattr(task, "dict") else task
        except Exception as error:  # of the SDK, of httpx, of pydantic
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> PiclipError:
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        detail = body.get("detail") if isinstance(body, dict) else None
        said = detail or (f"status {status}" if status else str(error)) or type(error).__name__
        why = " ".join(str(said).split()).rstrip(".")[:200]
        if status in {401, 403}:
            return PiclipError(
                f"Label Studio at {self.url} does not let us in ({why}); check --api-key."
            )
        return PiclipError(
            f"The labelled tasks cannot be read from Label Studio at {self.url} ({why}); check "
            f"--url, and that it is running."
        )


def _is_web_address(url: str) -> bool:
    try:
        return url.startswith(("http://", "https://")) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def image_address(task: Task, config: LabellingConfig) -> str:
    """Where the image of a task is (UsageError if it does not say)."""
    data = task.get("data")
    address = data.get(config.field) if isinstance(data, dict) else None
    if not isinstance(address, str) or not address:
        raise UsageError(f"The task {task.get('id')} has no image in its data.{config.field}.")
    return address


def read_labels(task: Task, config: LabellingConfig, problems: Problems) -> LabelledFile | None:
    """The labelled regions of a task, with the image's address as ``source``; None without any.

    Regions of other images of the task and of unknown classes are left out. A UsageError if the
    task or its annotation is malformed.
    """
    annotations = task.get("annotations") or []
    if isinstance(annotations, list):
        annotations = [_only(config.image, annotation) for annotation in annotations]
    # The format's reader knows the image under one name; its address is used as it is.
    plain = {"data": {"image": "image"}, "annotations": annotations}
    file = labelstudio.from_task(plain, f"task {task.get('id')}", problems=problems)
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
