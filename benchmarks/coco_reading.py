"""Time and peak memory of reading a COCO file of 300,000 polygons (Linux only).

    python benchmarks/coco_reading.py [--annotations 300000] [--output FILE]

The file, of 196 MB in full, is generated: 118,000 images of 640 x 480 pixels, as many as COCO
trains on, and outlines of 5 to 49 corners with two decimal places. Each way to read it runs in a
process of its own, whose peak resident memory (VmHWM of proc(5)) is read at its end: ``json.loads``
alone, to compare with; `piclip.formats.read_labels`, which makes masks of all outlines; and
`piclip.datasets.coco_json.read_coco`, which makes them when they are asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SEED, IMAGES_PER_ANNOTATION, CATEGORIES = 0, 118 / 300, 80
WIDTH, HEIGHT = 640, 480
READERS = {
    "json.loads": "import json; read = lambda path: json.loads(path.read_text())",
    "read_labels": "from piclip.formats import read_labels as read",
    "read_coco": "from piclip.datasets.coco_json import read_coco as read",
}
COMMAND = """
import sys, time
from pathlib import Path
{reader}
start = time.perf_counter()
read(Path(sys.argv[1]))
print(time.perf_counter() - start)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def write_annotations(path: Path, count: int) -> None:
    """Write a COCO file of so many outlines, on a few times fewer images."""
    random = np.random.default_rng(SEED)
    images = max(1, round(count * IMAGES_PER_ANNOTATION))
    with path.open("w") as out:
        out.write('{"info": {"description": "generated"}, "images": [')
        for number in range(1, images + 1):
            image = {
                "license": 3,
                "file_name": f"{number:012}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{number:012}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "date_captured": "2013-11-14 11:18:45",
                "id": number,
            }
            out.write((", " if number > 1 else "") + json.dumps(image))
        out.write('], "annotations": [')
        for number in range(1, count + 1):
            corners = int(random.integers(5, 50))
            angles = (np.arange(corners) + random.uniform(0, 0.9, corners)) * 2 * np.pi / corners
            radius = random.uniform(8, 120) * random.uniform(0.7, 1, corners)
            x = random.uniform(130, WIDTH - 130) + radius * np.cos(angles)
            y = random.uniform(130, HEIGHT - 130) + radius * np.sin(angles)
            left, top = round(float(x.min()), 2), round(float(y.min()), 2)
            annotation = {
                "segmentation": [np.stack([x, y], axis=1).ravel().round(2).tolist()],
                "area": round(float(np.ptp(x) * np.ptp(y)) * 0.7, 4),
                "iscrowd": 0,
                "image_id": int(random.integers(1, images + 1)),
                "bbox": [left, top, round(float(np.ptp(x)), 2), round(float(np.ptp(y)), 2)],
                "category_id": int(random.integers(1, CATEGORIES + 1)),
                "id": number,
            }
            out.write((", " if number > 1 else "") + json.dumps(annotation))
        names = [{"id": n, "name": f"class {n}"} for n in range(1, CATEGORIES + 1)]
        out.write(f'], "categories": {json.dumps(names)}}}\n')


def measure(path: Path, reader: str) -> dict[str, float]:
    """Seconds and MiB of one way to read a file, in a process of its own."""
    command = [sys.executable, "-c", COMMAND.format(reader=READERS[reader]), str(path)]
    seconds, peak = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    return {"seconds": round(float(seconds), 2), "peak_mib": round(int(peak) / 1024, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, read, print and write the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=int, default=300_000, metavar="N")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_suffix(".json"), metavar="FILE"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_annotations(path, given.annotations)
        megabytes = round(path.stat().st_size / 1e6, 1)
        print(f"{given.annotations:,} annotations, {megabytes} MB")
        report = {"annotations": given.annotations, "megabytes": megabytes, "readers": {}}
        for reader in READERS:
            found = report["readers"][reader] = measure(path, reader)
            print(f"{reader:12} {found['seconds']:7.2f} s  {found['peak_mib']:7.1f} MiB")
    given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
