"""Serve the page until it is interrupted; leave no file behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from piclip.app.models import BUILTIN, Models
from piclip.app.session import Limits, Sessions
from piclip.errors import UsageError
from piclip.io.addresses import is_loopback
from piclip.io.extras import needs_extra

if TYPE_CHECKING:
    from gradio import Blocks

    from piclip.app.guard import Hosts


@dataclass(frozen=True)
class Settings:
    """How to serve the page, as the options of ``piclip app`` say it.

    A page that others can reach offers only the model it starts with and the built-in one.
    """

    model: str = BUILTIN
    visual: str | None = None
    clip: str | None = None
    local_models: bool = False
    host: str = "127.0.0.1"
    port: int | None = None
    login: tuple[str, str] | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    upload_megabytes: int = 50
    limits: Limits = field(default_factory=Limits)

    @property
    def local(self) -> bool:
        """Whether only this computer can reach the page: no other address, no reverse proxy."""
        names = (name.partition(":")[0] for name in self.allow_hosts)
        return all(is_loopback(name) for name in (self.host, *names))


@dataclass(frozen=True)
class Served:
    """A page that is being served: its address, and the sessions of its tabs."""

    url: str
    sessions: Sessions
    folder: Path
    page: Blocks


@contextmanager
def serve(settings: Settings) -> Iterator[Served]:
    """Serve the page while the block runs; its files and sessions end with it.

    A UsageError if gradio is missing, the address or port cannot be had, one of ``allow_hosts`` is
    no name, or others would be offered local models; errors of `Models.load`, too.
    """
    if settings.local_models and not settings.local:
        raise UsageError(
            "--local-models is for a page that only this computer reaches; leave it out and name "
            "the model with --model."
        )
    # Gradio reads these when it is imported or builds components; nothing may call home.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory(prefix="piclip-app-") as name, _gradio_files(Path(name)):
        with needs_extra("app", "The page"):
            from piclip.app.guard import Hosts  # noqa: PLC0415
            from piclip.app.page import build_page  # noqa: PLC0415

        hosts = Hosts(settings.host, settings.allow_hosts)
        sessions = Sessions(Path(name) / "sessions", settings.limits, Path(name) / "browser")
        models = Models(
            settings.model,
            visual=settings.visual,
            clip=settings.clip,
            any_model=settings.local,
            local_models=settings.local_models,
        )
        models.load(settings.model)  # a wrong name is told here, and the first click does not wait
        page = build_page(sessions, models)
        try:
            yield Served(_launched(page, settings, hosts), sessions, Path(name), page)
        finally:
            page.close(verbose=False)
            sessions.close_all()


def _launched(page: Blocks, settings: Settings, hosts: Hosts) -> str:
    """Start serving the page; its address."""
    from starlette.middleware import Middleware  # noqa: PLC0415 - comes with gradio

    from piclip.app.guard import Guard  # noqa: PLC0415
    from piclip.app.style import CSS, theme  # noqa: PLC0415 - needs gradio

    try:
        _, url, _ = page.launch(
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=settings.port,
            auth=settings.login,
            max_file_size=settings.upload_megabytes * 1_000_000,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            footer_links=["api"],
            state_session_capacity=200,
            app_kwargs={
                "middleware": [Middleware(Guard, hosts=hosts, login=settings.login is not None)]
            },
            theme=theme(),
            css=CSS,
        )
    except OSError as error:
        raise UsageError(
            f"The page cannot listen at {settings.host}:{settings.port or 'any port'} "
            f"({error}); choose another --host or --port."
        ) from error
    return str(url)


@contextmanager
def _gradio_files(folder: Path) -> Iterator[None]:
    """Let gradio keep uploads and pictures in a folder that is deleted at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "browser")
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
