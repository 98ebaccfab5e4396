"""Processes that share work."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import signal, sys, time
from pathlib import Path
from piclip.io.processes import worker_pool

def load(file):
    Path(file).touch()
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' own may be ignored
    try:
        with worker_pool(2, 1, load, sys.argv[1]) as pool:
            jobs = [pool.submit(abs, number) for number in range(2)]
            print("submitted", flush=True)
            jobs[0].result()
    except KeyboardInterrupt:
        print("stopped")
"""


WAITING = """
import signal, sys, time
from pathlib import Path
from piclip.io.processes import worker_pool

def load(loading, go):
    Path(loading).touch()
    while not Path(go).exists():
        time.sleep(0.01)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with worker_pool(1, 1, load, *sys.argv[1:]) as pool:
        print(pool.submit(abs, -7).result())
"""


@pytest.mark.parametrize("loading", [False, True])
def test_ctrl_c_ends_processes_that_start_without_a_word(tmp_path, loading):
    (tmp_path / "script.py").write_text(SCRIPT)
    file = tmp_path / "loading"
    run = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout.readline() == "submitted\n"
    while loading and not file.exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    assert run.communicate(timeout=50) == ("stopped\n", "")


def test_processes_of_one_that_ignores_ctrl_c_ignore_it_too(tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    loading, go = tmp_path / "loading", tmp_path / "go"
    run = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", loading, go],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not loading.exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    time.sleep(0.2)
    go.touch()
    assert run.communicate(timeout=50) == ("7\n", "")
