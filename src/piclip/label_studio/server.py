"""Serve the ML backend while a block runs."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from piclip.clip.cache import MemoryCache
from piclip.errors import PiclipError, UsageError
from piclip.formats.labelstudio import load_tasks
from piclip.io.decoding import reason
from piclip.io.extras import needs_extra
from piclip.io.images import MAX_PIXELS
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer

with needs_extra("labelstudio", "The backend of Label Studio"):
    import uvicorn
    from starlette.applications import Starlette

    from piclip.label_studio.projects import Backend, Tools
    from piclip.label_studio.protocol import build_app
    from piclip.label_studio.task_images import TaskImages
    from piclip.label_studio.tasks import LabelStudioApi, TaskSource


@dataclass(frozen=True)
class Settings:
    """How to serve, as the options of ``piclip label-studio`` say it; port 0 is any free one."""

    model: Mapping[str, Any]  # as FewShotSegmenter.from_pretrained takes it
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    labels: Path | None = None
    host: str = "127.0.0.1"
    port: int = 9090  # where Label Studio's own examples listen
    login: tuple[str, str] | None = field(default=None, repr=False)
    local_files: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    threshold: float | None = None
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Served:
    """A server that runs, at the address that is to be given to Label Studio."""

    url: str
    _ended: threading.Event

    def wait(self) -> None:
        """Wait until the server ends, which only Ctrl-C makes it do."""
        # With a time limit, without which Windows hears no Ctrl-C; and not by joining the thread,
        # which Python 3.11 takes for ended when that is interrupted.
        while not self._ended.wait(1):
            pass


@contextmanager
def serve(settings: Settings) -> Iterator[Served]:
    """Serve the protocol while the block runs; its files end with it.

    A UsageError if there is nothing to learn from, or the address, a library or the model cannot be
    had (that one may be a ModelError).
    """
    with ExitStack() as stack:
        # The port is taken at once, so that a taken one is told before a model is loaded.
        listening = stack.enter_context(listen(settings.host, settings.port))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="piclip-label-studio-"))
        source, images = _connections(settings)
        stack.enter_context(closing(images))
        segmenter = FewShotSegmenter.from_pretrained(**settings.model)
        if isinstance(segmenter.scorer, TrainingFreeScorer):  # labels come one by one
            segmenter.scorer.vision.cache = MemoryCache()
        threshold = segmenter.threshold if settings.threshold is None else settings.threshold
        tools = Tools(segmenter, source, images, Path(folder), threshold, settings.max_pixels)
        backend = stack.enter_context(closing(Backend(tools)))
        yield stack.enter_context(running(build_app(backend, settings.login), listening))


def listen(host: str, port: int) -> socket.socket:
    """Take a port (UsageError if it or the address cannot be had)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        why = reason(error).partition(" (while")[0]  # the rest repeats the address
        raise UsageError(
            f"The server cannot listen at {host}:{port} ({why}); choose another --port or --host."
        ) from error


@contextmanager
def running(app: Starlette, listening: socket.socket) -> Iterator[Served]:
    """Serve an application in a thread while the block runs."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level="critical",  # what goes wrong in a request is logged by the protocol
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    ended = threading.Event()

    def run() -> None:
        try:
            server.run(sockets=[listening])
        finally:
            ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if ended.wait(0.01):
                raise PiclipError("The server could not be started; see the log above.")
        host, port = listening.getsockname()[:2]
        yield Served(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", ended)
    finally:
        server.should_exit = True
        thread.join()


def _connections(settings: Settings) -> tuple[TaskSource, TaskImages]:
    """Where labels and images come from."""
    if settings.local_files is not None and not settings.local_files.is_dir():
        raise UsageError(f"--local-files {settings.local_files} is no folder; check the path.")
    api = None
    if settings.url is not None:
        if not settings.api_key:
            raise UsageError(
                "Label Studio asks for a token: make a personal access token in your account's "
                "settings there, and give it as LABEL_STUDIO_API_KEY or with --api-key."
            )
        api = LabelStudioApi(settings.url, settings.api_key)
    images = TaskImages(
        api.url if api else None,
        headers=api.headers if api else dict,
        local_files=settings.local_files,
        allowed_hosts=settings.allowed_hosts,
    )
    path = settings.labels
    if path is not None:
        if not path.is_file():
            raise UsageError(f"--labels {path} is no file; check the path.")
        load_tasks(path)  # what is no export is told now, not to whoever asks first
        return lambda _: load_tasks(path), images
    if api is None:
        raise UsageError(
            "There is nothing to learn from: give the address of Label Studio as LABEL_STUDIO_URL "
            "or with --url, or an export with --labels."
        )
    return api.labelled_tasks, images
