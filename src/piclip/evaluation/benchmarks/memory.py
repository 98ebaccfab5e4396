"""Peak memory of one pass, measured in a process of its own.

``python -m piclip.evaluation.benchmarks.memory plain|priors '{"image_size": 480, ...}'`` builds the
model, warms the libraries up on a small image, resets the kernel's high-water mark of resident
memory, runs once and prints the bytes by which the mark rose above the loaded model. Resident
memory counts everything, the buffers of the matrix library included, which a tensor profiler does
not see.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from piclip.errors import PiclipError
from piclip.evaluation.benchmarks.workload import (
    Workload,
    plain_forward,
    query_priors,
    random_classes,
    random_encoder,
    random_query,
)

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def peak_memory(task: str, workload: Workload, threads: int) -> int | None:
    """Peak memory of one run above the loaded model, in bytes.

    Args:
        task: "plain" for transformers' forward pass, "priors" for the priors of one class.
        workload: Sizes.
        threads: Threads of torch.

    Returns:
        Bytes; None where the system does not tell (other than Linux).

    Raises:
        PiclipError: The measuring process failed.
    """
    if not _RESET.exists():
        return None
    command = [sys.executable, "-m", "piclip.evaluation.benchmarks.memory", task]
    command += [json.dumps(asdict(workload)), str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip() or "no message").splitlines()[-1]
        raise PiclipError(
            f"The process that measures memory failed ({reason}); close other programs and rerun."
        )
    return int(result.stdout.split()[-1])


def _measure(task: str, workload: Workload) -> int:
    encoder = random_encoder(workload)
    small = replace(workload, image_size=2 * workload.patch_size)
    for warming, size in ((True, small), (False, workload)):
        pixels, classes = random_query(size), random_classes(size, 1, encoder.dtype)
        gc.collect()
        _release_free_memory()
        if not warming:
            _RESET.write_text(_RESET_PEAK)
        before = _status_bytes("VmRSS")
        if task == "plain":
            plain_forward(encoder, pixels)
        else:
            query_priors(encoder, pixels, classes)
    return _status_bytes("VmHWM") - before


def _release_free_memory() -> None:
    """Gives freed heap back, so that the run cannot reuse it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise PiclipError(f"The system does not report {field}, so memory cannot be measured here.")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(_measure(sys.argv[1], Workload(**json.loads(sys.argv[2]))))
