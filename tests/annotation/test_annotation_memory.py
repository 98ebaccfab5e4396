"""Memory does not grow with the number of images: the peak of a process while it annotates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = Path(__file__).resolve().parents[2] / "benchmarks" / "annotate_memory.py"
IMAGES = 800
# The scores alone of an image, kept by mistake, are 64 KiB: 37 MiB for the last three quarters.
MOST_GROWTH_MIB = 16


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_the_peak_of_all_images_is_that_of_the_first_quarter(tmp_path, model):
    report = tmp_path / "report.json"
    command = [sys.executable, MEASURE, "--images", IMAGES, "--model", model, "--output", report]
    # One arena of glibc's allocator: with one per thread the peak goes on rising by chance.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    subprocess.run([str(part) for part in command], check=True, env=environment)
    quarter, *_, last = [
        mark for mark in json.loads(report.read_text())["marks"] if mark["images"] >= IMAGES / 4
    ]
    assert quarter["images"] < IMAGES / 2 and last["images"] == IMAGES
    assert last["peak_mib"] - quarter["peak_mib"] < MOST_GROWTH_MIB, (quarter, last)
