"""Processes that share work."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from piclip.io.processes import worker_pool

def load(file):
    Path(file).touch()
    time.sleep(60)

if __name__ == "__main__":
    try:
        with worker_pool(2, 1, load, sys.argv[1]) as pool:
            jobs = [pool.submit(abs, number) for number in range(2)]
            print("submitted", flush=True)
            jobs[0].result()
    except KeyboardInterrupt:
        print("stopped")
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
