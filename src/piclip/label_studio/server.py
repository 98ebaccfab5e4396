"""Serve the ML backend while a block runs."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from piclip.clip.cache import weights_hash
from piclip.errors import PiclipError, UsageError
from piclip.io.addresses import is_loopback
from piclip.io.decoding import reason
from piclip.io.extras import needs_extra
from piclip.io.images import MAX_PIXELS
from piclip.label_studio.encodings import KeepingEncoder
from piclip.label_studio.source import ExportFile, LabelStudioApi, TaskSource

with needs_extra("labelstudio", "The backend of Label Studio"):
    import uvicorn
    from starlette.applications import Starlette

    from piclip.label_studio.backend import Backend
    from piclip.label_studio.images import TaskImages
    from piclip.label_studio.project import Tools
    from piclip.label_studio.protocol import build_app

DEFAULT_PORT = 9090
"""Where Label Studio's own examples listen."""


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        model: "builtin", a hub name or a folder.
        url: Address of Label Studio, or None.
        api_key: Its token, or None.
        labels: An export to learn from instead of Label Studio's API, or None.
        host: Address to listen at.
        port: Port; 0 for any.
        login: (user, password), or None for no login.
        local_files: Folder of Label Studio's local files, if it is on this computer.
        allowed_hosts: Further servers that images may come from.
        threshold: Least score of a class; None for the model's own.
        device: As in `piclip.FewShotSegmenter.from_pretrained`.
        dtype: The same.
        max_pixels: Larger images are refused.
    """

    model: str
    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    labels: Path | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    login: tuple[str, str] | None = field(default=None, repr=False)
    local_files: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    threshold: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_pixels: int = MAX_PIXELS

    @property
    def local(self) -> bool:
        """Whether only this computer can reach the server."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        url: Its address, to be given to Label Studio.
    """

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

    Raises:
        UsageError: There is nothing to learn from, a library is missing, or the address or port
            cannot be had.
        ModelError: The model cannot be had.
    """
    # The port is taken at once, so that a taken one is told before a model is loaded.
    with (
        listen(settings.host, settings.port) as listening,
        tempfile.TemporaryDirectory(prefix="piclip-label-studio-") as folder,
        closing(_tools(settings, Path(folder))) as tools,
        closing(Backend(tools)) as backend,
        running(build_app(backend, settings.login), listening) as served,
    ):
        yield served


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        UsageError: The address or the port cannot be had.
    """
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":  # elsewhere it would let two servers take one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise UsageError(
            f"The server cannot listen at {host}:{port} ({reason(error)}); choose another --port "
            f"or --host."
        ) from error
    return listening


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


def _tools(settings: Settings, folder: Path) -> Tools:
    source, images = _connections(settings)
    try:
        encoder = KeepingEncoder.from_pretrained(
            settings.model, device=settings.device, dtype=settings.dtype
        )
    except BaseException:
        images.close()
        raise
    threshold = settings.threshold
    return Tools(
        encoder=encoder,
        model_hash=weights_hash(encoder.model),
        source=source,
        images=images,
        folder=folder,
        threshold=encoder.settings.threshold if threshold is None else threshold,
        max_pixels=settings.max_pixels,
    )


def _connections(settings: Settings) -> tuple[TaskSource, TaskImages]:
    """Where labels and images come from."""
    if settings.local_files is not None and not settings.local_files.is_dir():
        raise UsageError(f"--local-files {settings.local_files} is no folder; check the path.")
    api = None
    if settings.url is not None:
        if not settings.api_key:
            raise UsageError(
                "Label Studio asks for a token: copy one from your account's settings there, and "
                "give it as LABEL_STUDIO_API_KEY or with --api-key."
            )
        api = LabelStudioApi(settings.url, settings.api_key)
    images = TaskImages(
        None if api is None else api.url,
        headers=dict if api is None else api.headers,
        local_files=settings.local_files,
        allowed_hosts=settings.allowed_hosts,
    )
    if settings.labels is not None:
        if not settings.labels.is_file():
            raise UsageError(f"--labels {settings.labels} is no file; check the path.")
        return ExportFile(settings.labels), images
    if api is None:
        raise UsageError(
            "There is nothing to learn from: give the address of Label Studio as LABEL_STUDIO_URL "
            "or with --url, or an export with --labels."
        )
    return api, images
