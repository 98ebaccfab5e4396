"""Memory does not grow with the number of images: peaks of whole runs, each in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piclip.formats import LabelledFile, Labels, Region, RunLengthMask, write_labels

SIZE = 128
# One image's scores and pixels, kept by mistake, are 110 KB: 90 MB for the 800 more images.
MOST_GROWTH_MIB = 16
RUN = """
import sys
from pathlib import Path
from piclip.cli import main
code = main(sys.argv[1:])
status = Path("/proc/self/status").read_text()
print("PEAK", code, status.split("VmHWM:")[1].split()[0])
"""


def peak_mib(folder, model, count):
    """Annotate that many generated images with two labelled ones; peak of resident memory."""
    generator = np.random.default_rng(count)
    photos = folder / "photos"
    photos.mkdir(parents=True)
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[30:90, 30:90] = True
    files = []
    for number in range(count + 2):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIZE, SIZE))
        image.save(photos / f"{number:05}.png")
        regions = (Region("thing", RunLengthMask.from_array(mask)),) if number < 2 else ()
        files.append(LabelledFile(f"{number:05}.png", SIZE, SIZE, regions))
    write_labels(Labels(("thing",), tuple(files)), folder / "labels.json", format="coco")
    command = ["annotate", "--images", photos, "--labels", folder / "labels.json"]
    command += ["--output", folder / "out.json", "--review", folder / "review.csv"]
    command += ["--model", model, "--device", "cpu"]
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, command)], capture_output=True, text=True, check=True
    )
    _, code, kibibytes = ran.stdout.split("\n")[0].split()
    assert code == "0", ran.stderr
    assert len(json.loads((folder / "out.json").read_text())["images"]) == count
    return int(kibibytes) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_the_peak_of_a_thousand_images_is_that_of_two_hundred(tmp_path, model):
    few = peak_mib(tmp_path / "few", model, 200)
    many = peak_mib(tmp_path / "many", model, 1000)
    assert many - few < MOST_GROWTH_MIB, f"{few:.0f} MiB for 200 images, {many:.0f} for 1,000"
