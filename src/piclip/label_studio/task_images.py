"""Get the images of tasks, and from nowhere but where they may come from.

A task's address of an image is not to be trusted: whoever may import tasks could make this computer
ask any server that it reaches, or read its files. So images come only

- from the Label Studio that was configured (same scheme, host and port), with its token, and there
  only from the routes that serve files,
- from hosts that were allowed by name, without the token,
- from the folder that was given for Label Studio's local files, never from outside of it,
- from the address itself (``data:image/...;base64,``).

Redirects are followed step by step under the same rules.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote

import httpx

from piclip.errors import ImageError, UsageError
from piclip.io.decoding import reason
from piclip.label_studio.bounded_client import bounded_client

MOST_BYTES = 100_000_000  # larger image files are refused

_MOST_REDIRECTS = 3
_SECONDS = 60
_CLOUD = frozenset({"s3", "gs", "azure-blob"})
_LOCAL_FILES = "/data/local-files/"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_DATA_ROUTE = re.compile(r"/(data/.+|(tasks|projects)/[0-9]+/(presign|resolve)/?)")
"""Where Label Studio serves files: uploaded and local ones, and those of cloud storages."""

_CLIMBING = re.compile(r"[\\\x00-\x1f]|(^|/)\.\.?(;[^/]*)?(/|$)")
"""What some server on the way may take for another path than the one that is written."""


class TaskImages:
    """Copies images of tasks into files.

    They come from the address of Label Studio, where the headers let us in, from the folder of its
    local files, if that is on this computer, and from ``host`` or ``host:port`` that are allowed.
    """

    def __init__(
        self,
        label_studio: str | None = None,
        *,
        headers: Callable[[], Mapping[str, str]] = dict,
        local_files: Path | None = None,
        allowed_hosts: Sequence[str] = (),
    ) -> None:
        self._base = None if label_studio is None else label_studio.rstrip("/")
        self._base_url = None if self._base is None else httpx.URL(self._base)
        self._below = "" if self._base_url is None else self._base_url.path.rstrip("/")
        self._headers = headers
        self._root = None if local_files is None else local_files.resolve()
        self._allowed = frozenset(part for host in allowed_hosts for part in _host_ports(host))
        self._client = bounded_client(MOST_BYTES, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def copy(self, address: str, task_id: int | None, destination: Path) -> None:
        """Copy the image of a task into a file, which is removed on failure.

        The address is as the task's data has it; for cloud storages Label Studio wants to know the
        number of the task. An ImageError if the image may not be fetched from there, or cannot be.
        """
        try:
            self._copy(address, task_id, destination)
        except Exception as error:
            destination.unlink(missing_ok=True)
            if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
                why = f"the image cannot be fetched ({str(error) or type(error).__name__})."
            elif isinstance(error, ValueError):
                why = str(error)
            else:
                raise
            shown = address if len(address) <= 200 else f"{address[:200]}..."
            raise ImageError(f"{shown}: {why}") from error

    def _copy(self, address: str, task_id: int | None, destination: Path) -> None:
        """What cannot be had is an error of httpx, or a ValueError that says why."""
        if address.startswith("data:"):
            destination.write_bytes(_decode_data(address))
            return
        if address.startswith(("upload/", "/upload/")):
            address = "/data/" + address.lstrip("/")
        # Told of its own address, Label Studio writes it, or the path in it, before those of files.
        if self._base is not None and address.startswith(self._base + "/"):
            address = address.removeprefix(self._base)
        elif address.startswith(self._below + "/"):
            address = address.removeprefix(self._below)
        if self._root is not None and address.startswith(_LOCAL_FILES):
            _copy_local(address, self._root, destination)
        else:
            self._download(self._absolute(address, task_id), destination)

    def _absolute(self, address: str, task_id: int | None) -> httpx.URL:
        """The address to ask, at Label Studio where the task names no host."""
        scheme = address.partition(":")[0].lower()
        if scheme in _CLOUD and task_id is not None:
            name = base64.urlsafe_b64encode(address.encode()).decode()
            address = f"/tasks/{task_id}/presign/?fileuri={name}"
        elif scheme in _DEFAULT_PORTS:
            return httpx.URL(address)
        elif not address.startswith("/"):
            raise ValueError("this is no address of an image that can be fetched.")
        if self._base is None:
            raise ValueError(
                "this image lies in Label Studio, whose address is not known; give it with --url, "
                "or the folder with --local-files."
            )
        return httpx.URL(self._base + address)

    def _download(self, url: httpx.URL, destination: Path) -> None:
        end = time.monotonic() + _SECONDS
        for _ in range(_MOST_REDIRECTS + 1):
            with self._client.stream("GET", url, headers=self._headers_for(url)) as response:
                if response.next_request is None:
                    _save(response, destination, end)
                    return
                url = response.next_request.url
        raise ValueError(f"the image is redirected more than {_MOST_REDIRECTS} times.")

    def _headers_for(self, url: httpx.URL) -> Mapping[str, str]:
        """The token for Label Studio's files alone; no host is asked that was not allowed."""
        home = self._base_url is not None and _origin(url) == _origin(self._base_url)
        if home and self._serves_files(url):
            return self._headers()
        if url.scheme in _DEFAULT_PORTS and _origin(url)[1:] in self._allowed:
            return {}
        if home:
            raise ImageError(
                f"{url.path[:200]}: Label Studio serves no files there; images are fetched from "
                f"addresses such as /data/upload/..., without a user name."
            )
        raise ImageError(
            f"Images of {url.host} are not fetched; if you trust it, add --allow-host {url.host}"
            f"{'' if url.port is None else f':{url.port}'}."
        )

    def _serves_files(self, url: httpx.URL) -> bool:
        """Whether an address at Label Studio is one of a file, however often it is unquoted."""
        if self._base_url is None or url.userinfo != self._base_url.userinfo:
            return False
        path = url.raw_path.partition(b"?")[0].decode("ascii")
        while True:
            inside = path.startswith(f"{self._below}/")
            if not inside or _CLIMBING.search(path):
                return False
            if not _DATA_ROUTE.fullmatch(path.removeprefix(self._below)):
                return False
            unquoted = unquote(path)
            if unquoted == path:
                return True
            path = unquoted


def _save(response: httpx.Response, destination: Path, end: float) -> None:
    if response.status_code != httpx.codes.OK:
        answer = f"{response.status_code} {response.reason_phrase}".strip()
        raise ValueError(f"the image cannot be fetched (the server answers {answer}).")
    with destination.open("wb") as file:
        for piece in response.iter_bytes():
            if time.monotonic() > end:
                raise ValueError(f"the image takes more than {_SECONDS} seconds.")
            file.write(piece)


def _copy_local(address: str, root: Path, destination: Path) -> None:
    names = parse_qs(address.partition("?")[2]).get("d", [""])
    try:
        path = (root / names[-1].lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise PermissionError("it leads out of the folder; refused")
        if path.stat().st_size > MOST_BYTES:
            raise _too_large()
        shutil.copyfile(path, destination)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character, too
        raise ValueError(
            f"the image cannot be read in the folder of --local-files ({reason(error)}); this must "
            f"be the folder that Label Studio serves."
        ) from error


def _decode_data(address: str) -> bytes:
    head, _, content = address.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise ValueError("this is no image in base64.")
    if len(content) > MOST_BYTES:
        raise _too_large()
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError("the base64 of this image is damaged.") from error


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, with the scheme's own port where none is written."""
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)


def _host_ports(text: str) -> list[tuple[str, int | None]]:
    """The hosts and ports that an --allow-host means: both of the web without a port."""
    try:
        url = httpx.URL(f"//{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if not url.host or url.userinfo or url.path not in {"", "/"} or url.query:
        raise UsageError(f"--allow-host {text!r} is no host; write it as in images.example.org.")
    return [(url.host, port) for port in ([url.port] if url.port else _DEFAULT_PORTS.values())]


def _too_large() -> ValueError:
    return ValueError(f"it is larger than {MOST_BYTES // 1_000_000} MB")
