"""The processes of the experiments."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import time
from world.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as (pool, reports):
        pool.submit(reports.put, "working")
        pool.submit(time.sleep, 300)
        print(reports.get(), flush=True)
        time.sleep(300)
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=root) as parent:
        assert parent.stdout.readline() == "working\n"
        parent.kill()
        # The parent's processes hold the other end of the pipe: it closes with the last of them.
        assert parent.communicate(timeout=60) == ("", None)
