"""The protocol of Label Studio's ML backends over HTTP.

`GET /` and `/health`, `POST /setup`, `POST /predict`, `POST /webhook`, `GET /versions`, with the
bodies that Label Studio sends and the answers that it reads. It waits 1 s for `/health`, 3 s for
`/setup`, 1 s for `/webhook` and 100 s for `/predict`, so only the last one waits for learning.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from piclip.errors import PiclipError, UsageError
from piclip.label_studio.backend import Backend

MOST_BYTES = 200_000_000
"""Larger requests are refused; tasks bring along their annotations and earlier predictions."""

LEARNING = "piclip-learning"
"""The version while one is being learned; no prediction has it."""

SETUP_SECONDS = 1.5

_CHANGES = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "ANNOTATION_DELETED",
        "TASKS_DELETED",
        "START_TRAINING",
    }
)

_BAD_REQUEST, _UNAUTHORISED, _TOO_LARGE, _WRONG_TYPE, _FAILED, _NO_ANSWER, _ENDING = (
    *(400, 401, 413, 415),
    *(500, 502, 503),
)

Handler = Callable[[Request], Awaitable[JSONResponse]]
logger = logging.getLogger("piclip.label_studio")


def build_app(
    backend: Backend, login: tuple[str, str] | None = None, *, setup_seconds: float = SETUP_SECONDS
) -> Starlette:
    """The protocol as an ASGI application.

    Args:
        backend: Does the work.
        login: (user, password) that every request must bring; None for no login.
        setup_seconds: How long `/setup` waits for learning.
    """
    endpoints = _Endpoints(backend, setup_seconds)
    routes = [
        ("/", "GET", endpoints.health),
        ("/health", "GET", endpoints.health),
        ("/setup", "POST", endpoints.setup),
        ("/predict", "POST", endpoints.predict),
        ("/webhook", "POST", endpoints.webhook),
        ("/versions", "GET", endpoints.versions),
    ]
    return Starlette(
        routes=[Route(path, _guarded(run, login), methods=[method]) for path, method, run in routes]
    )


class _Endpoints:
    def __init__(self, backend: Backend, setup_seconds: float) -> None:
        self._backend = backend
        self._setup_seconds = setup_seconds

    async def health(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "piclip"})

    async def setup(self, request: Request) -> JSONResponse:
        body = await _body(request)
        learning = self._backend.setup(_project(body), _text(body, "schema"))
        try:
            version = await asyncio.to_thread(learning.result, self._setup_seconds)
        except NotYet:
            version = LEARNING
        return JSONResponse({"model_version": version})

    async def predict(self, request: Request) -> JSONResponse:
        body = await _body(request)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise UsageError("The field 'tasks' must be a list of tasks.")
        work = self._backend.predict(_project(body), _text(body, "label_config"), tasks)
        return JSONResponse({"results": await asyncio.wrap_future(work)})

    async def webhook(self, request: Request) -> JSONResponse:
        body = await _body(request)
        if body.get("action") not in _CHANGES:
            return JSONResponse({"status": "Unknown event"})
        project = body.get("project")
        if not isinstance(project, dict):
            raise UsageError("The field 'project' must describe the project of the event.")
        self._backend.labels_changed(str(project.get("id")))
        return JSONResponse({"status": "ok"}, 201)

    async def versions(self, request: Request) -> JSONResponse:
        return JSONResponse({"versions": self._backend.versions})


def _guarded(handle: Handler, login: tuple[str, str] | None) -> Handler:
    """Let in who may come in, and say in one sentence what went wrong."""

    async def run(request: Request) -> JSONResponse:
        if login is not None and not _may_enter(request, login):
            headers = {"WWW-Authenticate": 'Basic realm="piclip"'}
            return JSONResponse(
                {"error": "This server asks for a login."}, _UNAUTHORISED, headers=headers
            )
        try:
            return await handle(request)
        except _Refused as error:
            return JSONResponse({"error": str(error)}, error.status)
        except PiclipError as error:
            logger.warning("%s: %s", request.url.path, error)
            status = _BAD_REQUEST if isinstance(error, UsageError) else _NO_ANSWER
            return JSONResponse({"error": str(error)}, status)
        except CancelledError:
            return JSONResponse({"error": "The server is ending."}, _ENDING)
        except Exception as error:
            logger.exception("%s failed.", request.url.path)
            return JSONResponse({"error": f"Unexpected {type(error).__name__}: {error}"}, _FAILED)

    return run


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _may_enter(request: Request, login: tuple[str, str]) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        decoded = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and secrets.compare_digest(decoded, ":".join(login).encode())


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent.

    Web pages cannot send this type to other servers without their leave, so that none can make a
    browser on this computer ask here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refused(_WRONG_TYPE, "Send JSON, with the header Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _Refused(_WRONG_TYPE, "Send JSON as it is, without Content-Encoding.")
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BYTES:
            raise _Refused(_TOO_LARGE, f"The request is larger than {MOST_BYTES:,} bytes.")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError("The request is no JSON.") from error
    if not isinstance(body, dict):
        raise UsageError("The request must be a JSON object.")
    return body


def _project(body: dict[str, Any]) -> str:
    """The project's number, which comes with the time when it was made: 3.1700000000."""
    return str(body.get("project") or "").partition(".")[0]


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise UsageError(f"The field {name!r} must be the project's labelling configuration.")
    return value
