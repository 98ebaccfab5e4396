"""Peak memory of ``piclip annotate`` while it goes through many generated images (Linux only).

    python benchmarks/annotate_memory.py [--images 10000] [--model builtin] [--output FILE]

The images are drawn scenes of 128 x 128 pixels: 100 different ones, shifted sideways so that no two
images are alike, as JPEG in a temporary folder. Three further ones are labelled. The command itself
runs in a process of its own, whose peak resident memory (VmHWM of proc(5)) is read each time when
its journal holds another share of the images, and at its end, after the output is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from piclip.datasets.scenes import IMAGE_SIZE, make_scene
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask, write_labels

SEED, DISTINCT, LABELLED = 10_000, 100, 3
CLASS = "cat"
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
COMMAND = """
import sys
from pathlib import Path
from piclip.cli import main
code = main(sys.argv[1:])
Path(sys.argv[-1]).with_suffix(".peak").write_text(Path("/proc/self/status").read_text())
sys.exit(code)
"""


@dataclass(frozen=True)
class Mark:
    """What was read when so many images were done.

    Attributes:
        images: Images done.
        seconds: Since the command was started, loading the model included.
        images_per_second: Since the mark before; None for the first, which loads the model.
        peak_mib: Most resident memory so far, in MiB.
    """

    images: int
    seconds: float
    images_per_second: float | None
    peak_mib: float


def write_images(folder: Path, count: int) -> None:
    """Write ``photos/`` with ``count`` images and three labelled ones, and ``labels.json``."""
    photos = folder / "photos"
    photos.mkdir()
    scenes = [make_scene(SEED, number, include=CLASS) for number in range(DISTINCT)]
    for number in range(count):
        shifted = np.roll(scenes[number % DISTINCT].image, number // DISTINCT, axis=1)
        Image.fromarray(shifted).save(photos / f"image-{number:06}.jpg", quality=90)
    files = []
    for number in range(LABELLED):
        scene = make_scene(SEED, DISTINCT + number, include=CLASS)
        name = f"labelled-{number}.jpg"
        Image.fromarray(scene.image).save(photos / name, quality=90)
        region = Region(CLASS, RunLengthMask.from_array(scene.mask(CLASS)))
        files.append(LabelledFile(name, IMAGE_SIZE, IMAGE_SIZE, (region,)))
    write_labels(Labels((CLASS,), tuple(files)), folder / "labels.json", format="coco")


def count_lines(file: Path) -> Iterator[int]:
    """Yield, each time when asked, how many lines a growing file has by now."""
    while not file.exists():
        yield 0
    count = 0
    with file.open("rb") as lines:
        while True:
            count += lines.read().count(b"\n")
            yield count


def annotate(folder: Path, count: int, model: str) -> list[Mark]:
    """Run the command; a mark for each share of the images and one after the output is written."""
    output = folder / "proposals.json"
    arguments = ["annotate", "--images", folder / "photos", "--labels", folder / "labels.json"]
    arguments += ["--model", model, "--device", "cpu", "--review", folder / "review.csv"]
    arguments += ["--output", output]
    start = time.monotonic()
    marks: list[Mark] = []

    def mark(images: int, status: str) -> None:
        seconds = time.monotonic() - start
        before = marks[-1] if marks else None
        done = images - before.images if before else 0
        rate = round(done / (seconds - before.seconds), 2) if before and done else None
        peak = int(status.split("VmHWM:")[1].split(maxsplit=1)[0]) / 1024
        marks.append(Mark(images, round(seconds, 1), rate, round(peak, 1)))
        print(f"{images:7} images  {seconds:8.1f} s  {rate or '-':>6} images/s  {peak:7.1f} MiB")

    waiting = sorted({max(1, round(share * count)) for share in SHARES})
    finished = count_lines(output.with_name(output.name + ".journal"))
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, arguments)])
    while process.poll() is None:
        time.sleep(0.1)
        done = next(finished) - 1  # the first line holds the settings
        if waiting and done >= waiting[0]:
            status = Path(f"/proc/{process.pid}/status").read_text()
            if "VmHWM" in status:  # not once it has ended
                mark(done, status)
            waiting = [share for share in waiting if share > done]
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    mark(len(json.loads(output.read_text())["images"]), output.with_suffix(".peak").read_text())
    return marks


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, run, print and write the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--model", default="builtin", help="as of piclip annotate")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_suffix(".json"), metavar="FILE"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), given.images)
        marks = annotate(Path(folder), given.images, given.model)
    report = {
        "images": given.images,
        "labelled": LABELLED,
        "pixels": [IMAGE_SIZE, IMAGE_SIZE],
        "model": given.model,
        "marks": [asdict(mark) for mark in marks],
    }
    given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
