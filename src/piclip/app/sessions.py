"""Which tab has which session: tabs never mix, and abandoned ones are forgotten."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path
from time import monotonic

from piclip.app.content import Limits
from piclip.app.session import AppSession
from piclip.errors import UsageError

_IDLE_SECONDS = 6 * 3600.0
_MOST_SESSIONS = 200


class Sessions:
    """The sessions of all tabs and API clients, by user and session identifier."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Starts empty.

        Args:
            folder: Where the sessions make their folders.
            limits: What each may hold.
        """
        self._folder = folder
        self.limits = limits
        self._sessions: dict[tuple[str, str], AppSession] = {}
        self._used: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tabs are known."""
        return len(self._sessions)

    def of(self, user: str | None, identifier: str | None) -> AppSession:
        """The session of one tab, made when first asked for.

        Args:
            user: Who logged in, or None.
            identifier: What the tab calls itself.

        Raises:
            UsageError: The request names no session, or there are too many.
        """
        if not identifier:
            raise UsageError("The request has no session_hash; call through gradio_client.")
        key = (user or "", identifier)
        with self._lock:
            self._forget_idle()
            if key not in self._sessions:
                if len(self._sessions) >= _MOST_SESSIONS:
                    raise UsageError("Too many pages are open on this server; try again later.")
                folder = self._folder / secrets.token_hex(8)
                self._sessions[key] = AppSession(folder, self.limits)
            self._used[key] = monotonic()
            return self._sessions[key]

    def close(self, user: str | None, identifier: str | None) -> None:
        """End the session of a tab that was closed; nothing happens if there is none."""
        with self._lock:
            self._forget((user or "", identifier or ""))

    def close_all(self) -> None:
        """End all sessions and delete their files."""
        with self._lock:
            for key in list(self._sessions):
                self._forget(key)

    def _forget_idle(self) -> None:
        now = monotonic()
        for key, session in list(self._sessions.items()):
            if now - self._used[key] > _IDLE_SECONDS and not session.running:
                self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        session = self._sessions.pop(key, None)
        self._used.pop(key, None)
        if session is not None:
            session.close()
