"""Which requests the page answers: those for its own address, after the login if there is one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse

from piclip.errors import UsageError
from piclip.io.addresses import is_loopback

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::([0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}

# What a browser needs to show the form for the login. All else is closed, so that an endpoint that
# a new release of gradio brings is closed too.
_FORM = re.compile(r"/|/(assets|static|svelte)/.*|(/gradio_api)?/theme\.css|/favicon\.ico")
_SEND = re.compile(r"/login/?")
_STARTUP = "/gradio_api/startup-events"


class Authority(NamedTuple):
    """Name (or address, without brackets) and port of a server; no port where none was written."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Authority | None:
        """What ``Host`` or an address says; None where that is no name with or without a port."""
        found = _AUTHORITY.fullmatch(text.lower())
        if found is None:
            return None
        address, name, port = found.groups()
        return cls(address or name, None if port is None else int(port))

    def at(self, scheme: str) -> Authority:
        """The same with the port that a scheme implies."""
        return self if self.port is not None else Authority(self.name, _PORTS.get(scheme))


class Hosts:
    """The hosts under which the page may be asked for.

    A web page elsewhere can let its own name point to this computer (DNS rebinding); its requests
    then look like those of the page itself, but for their ``Host``. An address in numbers cannot be
    made to point elsewhere. Besides the address that the page listens at, names can be allowed, as
    NAME (then with any port) or NAME:PORT (or else a UsageError).
    """

    def __init__(self, host: str, allowed: Sequence[str] = ()) -> None:
        self._host = host.strip("[]").lower()
        self._loopback = is_loopback(self._host)
        self._allowed = {_named(text) for text in allowed}

    def serves(self, host: Authority, port: int) -> bool:
        """Whether the page may be asked for under this host, while it listens at ``port``."""
        if self.names(host):
            return True
        own = is_loopback(host.name) or (
            not self._loopback and (host.name == self._host or _is_address(host.name))
        )
        return own and host.at("http").port == port

    def names(self, host: Authority) -> bool:
        """Whether this host is one of those that were allowed by name."""
        return host in self._allowed or Authority(host.name, None) in self._allowed


class Guard:
    """Middleware in front of all endpoints, gradio's own included."""

    def __init__(self, app: ASGIApp, hosts: Hosts, *, login: bool) -> None:
        self._app, self._hosts, self._login = app, hosts, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say why not; a tab closed while it sends a file is no error."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        with suppress(ClientDisconnect):
            await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        written = request.headers.get("host", "")
        host = Authority.parse(written)
        if host is None:
            return PlainTextResponse("The request names no host.", HTTPStatus.MISDIRECTED_REQUEST)
        if not self._hosts.serves(host, request.scope["server"][1]):
            return PlainTextResponse(
                f"This page is not served as {written}; whoever started it can accept that with "
                f"--allow-host {written}.",
                HTTPStatus.MISDIRECTED_REQUEST,
            )
        origin = request.headers.get("origin")
        if origin is not None and not self._same(origin, host):
            return PlainTextResponse(
                "This page takes no requests from other web pages.", HTTPStatus.FORBIDDEN
            )
        if self._login and not (_before_login(request) or _logged_in(request)):
            # As gradio says it, which its clients understand.
            detail = {"error": "Not authenticated", "auth_message": None}
            return JSONResponse({"detail": detail}, HTTPStatus.UNAUTHORIZED)
        return None

    def _same(self, origin: str, host: Authority) -> bool:
        """Whether a web page of this origin is the page itself, also behind a reverse proxy."""
        scheme, _, text = origin.partition("://")
        source = Authority.parse(text)
        return source is not None and (
            source.at(scheme) == host.at(scheme) or self._hosts.names(source)
        )


def _logged_in(request: Request) -> bool:
    """Whether a request carries what gradio gave its sender at the login."""
    app = request.app
    cookies = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(request.cookies.get(name) in app.tokens for name in cookies)


def _before_login(request: Request) -> bool:
    path = request.scope["path"]
    if request.method == "POST":
        return _SEND.fullmatch(path) is not None
    if path == _STARTUP:  # gradio itself asks for this, once, to start
        return not request.app.startup_events_triggered
    return request.method in {"GET", "HEAD"} and _FORM.fullmatch(path) is not None


def _named(text: str) -> Authority:
    authority = Authority.parse(text)
    if authority is None:
        raise UsageError(
            f"--allow-host {text!r} is no name; write it as in piclip.example.org or "
            f"localhost:9000."
        )
    return authority


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
