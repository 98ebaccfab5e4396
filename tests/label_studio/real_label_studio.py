"""A real Label Studio in a process of its own, in the environment that make test-label-studio made.

It needs no network but loopback. Its data are SQLite and files in a folder.
"""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-label-studio" / "bin" / "label-studio"
USER, PASSWORD = "anna@example.org", "a long password"
PATIENCE = 300  # seconds; the first start makes the tables, for most of a minute
QUIET = {
    **{"COLLECT_ANALYTICS": "false", "LATEST_VERSION_CHECK": "false"},
    **{"SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""},
}


@contextmanager
def running(folder, port, **settings):
    """Label Studio with its data in a folder and a user; gives its address."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}  # settings are of all names
    environment |= {"LABEL_STUDIO_USERNAME": USER, "LABEL_STUDIO_PASSWORD": PASSWORD}
    here = ("--no-browser", "--data-dir", str(folder), "--internal-host", "127.0.0.1")
    with (Path(folder) / "label-studio.log").open("ab") as log:
        server = subprocess.Popen(
            [PROGRAM, "start", *here, "--port", str(port)],
            env=environment | QUIET | settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.poll() is not None or answers(url))
        assert server.poll() is None, Path(log.name).read_text()
        yield url
    finally:
        try:
            server.terminate()
            server.wait(30)
        finally:
            with suppress(ProcessLookupError):  # as it should be: nothing of it is left
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert not answers(url)


def wait_for(done, seconds=PATIENCE):
    """Give what a function gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, f"waited {seconds} seconds in vain"
        time.sleep(0.2)
    return found


def answers(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def signed_in(url):
    """What the browser of a person is allowed who gave name and password."""
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        browser.get("/user/login/")
        form = {"email": USER, "password": PASSWORD}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        browser.headers["Referer"] = url
        browser.post("/user/login/", data=form).raise_for_status()
        browser.headers["X-CSRFToken"] = browser.cookies["csrftoken"]
        yield browser
