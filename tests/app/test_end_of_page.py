"""However the page is ended, its files go."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_page_and_its_files_go(tmp_path, name):
    command = [sys.executable, "-m", "piclip", "app", "--model", "builtin"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    served = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    assert b"The page is at" in served.stderr.readline()
    assert list(tmp_path.glob("piclip-app-*"))
    served.send_signal(getattr(signal, name))
    said = served.communicate(timeout=30)[1]
    assert b"Traceback" not in said
    assert not list(tmp_path.glob("piclip-app-*"))
