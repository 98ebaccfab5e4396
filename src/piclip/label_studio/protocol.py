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
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
)
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from piclip.errors import PiclipError, UsageError
from piclip.label_studio.projects import Backend

MOST_BYTES = 200_000_000  # of a request; tasks bring along annotations and predictions

LEARNING = "piclip-learning"  # the version while one is being learned; no prediction has it

_CHANGES = frozenset(
    {
        *("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED"),
        *("ANNOTATIONS_CREATED", "ANNOTATIONS_DELETED", "START_TRAINING"),
        *("TASKS_CREATED", "TASKS_DELETED"),  # with their annotations
    }
)

logger = logging.getLogger("piclip.label_studio")


def build_app(
    backend: Backend, login: tuple[str, str] | None = None, *, setup_seconds: float = 1.5
) -> Starlette:
    """The protocol as an ASGI application.

    Every request must bring the login, (user, password), if there is one; `/setup` waits
    ``setup_seconds`` for learning.
    """

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "piclip"})

    async def setup(request: Request) -> JSONResponse:
        body = await _body(request)
        learning = backend.setup(_project(body), _text(body, "schema"))
        try:
            version = await asyncio.to_thread(learning.result, setup_seconds)
        except NotYet:
            version = LEARNING
        return JSONResponse({"model_version": version})

    async def predict(request: Request) -> JSONResponse:
        body = await _body(request)
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise UsageError("The field 'tasks' must be a list of tasks.")
        work = backend.predict(_project(body), _text(body, "label_config"), tasks)
        return JSONResponse({"results": await asyncio.wrap_future(work)})

    async def webhook(request: Request) -> JSONResponse:
        body = await _body(request)
        if body.get("action") not in _CHANGES:
            return JSONResponse({"status": "Unknown event"})
        project = body.get("project")
        if not isinstance(project, dict):
            raise UsageError("The field 'project' must describe the project of the event.")
        backend.labels_changed(str(project.get("id")))
        return JSONResponse({"status": "ok"}, 201)

    async def versions(request: Request) -> JSONResponse:
        return JSONResponse({"versions": backend.versions})

    guard = Middleware(AuthenticationMiddleware, backend=_Login(login), on_error=_ask_for_login)
    return Starlette(
        routes=[
            Route("/", health, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/setup", setup, methods=["POST"]),
            Route("/predict", predict, methods=["POST"]),
            Route("/webhook", webhook, methods=["POST"]),
            Route("/versions", versions, methods=["GET"]),
        ],
        middleware=[guard],
        exception_handlers=dict.fromkeys(
            (HTTPException, PiclipError, CancelledError, Exception), _failed
        ),
    )


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Say in one sentence what went wrong."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    if isinstance(error, PiclipError):
        logger.warning("%s: %s", request.url.path, error)
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, UsageError) else 502)
    if isinstance(error, CancelledError):
        return JSONResponse({"error": "The server is ending."}, 503)
    logger.error("%s failed.", request.url.path, exc_info=error)
    return JSONResponse({"error": f"Unexpected {type(error).__name__}: {error}"}, 500)


class _Login(AuthenticationBackend):
    def __init__(self, login: tuple[str, str] | None) -> None:
        self._login = login

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        if self._login is None:
            return None
        scheme, _, given = conn.headers.get("authorization", "").partition(" ")
        try:
            decoded = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        right = secrets.compare_digest(decoded, ":".join(self._login).encode())
        if scheme.lower() != "basic" or not right:
            raise AuthenticationError("This server asks for a login.")
        return AuthCredentials(), SimpleUser(self._login[0])


def _ask_for_login(conn: HTTPConnection, error: AuthenticationError) -> JSONResponse:
    headers = {"WWW-Authenticate": 'Basic realm="piclip"'}
    return JSONResponse({"error": str(error)}, 401, headers=headers)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent.

    Web pages cannot send this type to other servers without their leave, so that none can make a
    browser on this computer ask here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON, with the header Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPException(415, "Send JSON as it is, without Content-Encoding.")
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BYTES:
            raise HTTPException(413, f"The request is larger than {MOST_BYTES:,} bytes.")
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
