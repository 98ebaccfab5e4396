"""The processes of the experiments."""

import subprocess
import sys

SCRIPT = """
import time
from piclip.benchmarks.workers import worker_pool

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
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "working\n"
        parent.kill()
        # The parent's processes hold the other end of the pipe: it closes with the last of them.
        assert parent.communicate(timeout=60) == ("", None)
