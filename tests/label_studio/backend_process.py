"""`piclip label-studio` as a process of its own, as a person starts it."""

import socket
import subprocess
import sys
from contextlib import contextmanager


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(*command, port):
    """The server while the block runs; it must end without a complaint."""
    program = [sys.executable, "-m", "piclip", *command, "--port", str(port)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert any(f"http://127.0.0.1:{port} " in line for line in server.stderr)
            yield server
        finally:
            server.terminate()  # as Ctrl-C does, which a job in the background would ignore
        said = server.stderr.read()
    assert said.endswith("Ended.\n"), said
    assert "Traceback" not in said
    assert server.returncode == 0
