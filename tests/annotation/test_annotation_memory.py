"""Memory does not grow with the number of images: the peak of a process while it annotates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = Path(__file__).resolve().parents[2] / "benchmarks" / "annotate_memory.py"
# The scores alone of an image, kept by mistake, are 64 KiB: 20 MiB or more for these 320 and more.
MOST_GROWTH_MIB = 8


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_the_peak_after_four_hundred_images_is_that_of_the_first(tmp_path, model):
    report = tmp_path / "report.json"
    command = [sys.executable, MEASURE, "--images", 400, "--model", model, "--output", report]
    subprocess.run([str(part) for part in command], check=True)
    first, *_, last = json.loads(report.read_text())["marks"]
    assert first["images"] <= 80 and last["images"] == 400
    assert last["peak_mib"] - first["peak_mib"] < MOST_GROWTH_MIB, (first, last)
