"""The sessions of all browser tabs: made when first asked for, ended when closed or abandoned."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic

from piclip.app.session import AppSession, Limits
from piclip.errors import UsageError

_IDLE_SECONDS = 6 * 3600.0
_MOST_SESSIONS = 200


class Sessions:
    """The sessions of all tabs and API clients, by user and session identifier.

    Tabs never mix, and abandoned ones are forgotten. Each session makes its folder in ``folder``;
    in ``browser`` gradio keeps what browsers sent and show, of all tabs together.
    """

    def __init__(self, folder: Path, limits: Limits, browser: Path | None = None) -> None:
        self._folder, self._browser = folder, browser
        self.limits = limits
        self._sessions: dict[tuple[str, str], AppSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tabs are known."""
        return len(self._sessions)

    def of(self, user: str | None, identifier: str | None) -> AppSession:
        """The session of one tab (what it calls itself), made when first asked for.

        A UsageError if the request names no session, or there are too many.
        """
        if not identifier:
            raise UsageError("The request has no session_hash; call through gradio_client.")
        key, now = (user or "", identifier), monotonic()
        with self._lock:
            for other, session in list(self._sessions.items()):
                if now - session.used > _IDLE_SECONDS and not session.running:
                    self._sessions.pop(other).close()
            if key not in self._sessions:
                if len(self._sessions) >= _MOST_SESSIONS:
                    raise UsageError("Too many pages are open on this server; try again later.")
                folder = self._folder / secrets.token_hex(8)
                self._sessions[key] = AppSession(folder, self.limits)
            self._sessions[key].used = now
            return self._sessions[key]

    def close(self, user: str | None, identifier: str | None) -> None:
        """End the session of a tab that was closed; nothing happens if there is none."""
        with self._lock:
            session = self._sessions.pop((user or "", identifier or ""), None)
        if session is not None:
            session.close()
            self._forget_browser()

    def _forget_browser(self) -> None:
        """Delete what is older than every open tab: it was a closed one's."""
        if self._browser is None:
            return
        with self._lock:
            oldest = min((session.began for session in self._sessions.values()), default=None)
        for file in list(self._browser.rglob("*")):
            with suppress(OSError):  # gradio deletes, too
                if file.is_file() and (oldest is None or file.stat().st_mtime < oldest):
                    file.unlink()

    def close_all(self) -> None:
        """End all sessions and delete their files."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()
