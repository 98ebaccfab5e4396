"""What the job engine costs beside the model, per image, however many images there are (Linux).

    python benchmarks/engine.py [--images 1000 50000 1000000] [--output FILE]

The model is a stub that answers at once, and all images are one file of 8 x 8 pixels that is not
read, so that what is measured is the journal: its lines, its index, taking it up again with nothing
to do, and writing what was found. Each number of images has a process of its own. Memory is what
its resident memory (VmRSS of proc(5), at its greatest of fifty readings) grows by, the list of the
images' paths included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from piclip.annotation.answers import How
from piclip.annotation.export import write_files
from piclip.annotation.jobs import Job, region_job, results_of
from piclip.annotation.queries import Queries, Query
from piclip.annotation.sinks import Proposal
from piclip.formats import Labels
from piclip.results import Segmentation

SIDE = 8


class Stub:
    """In place of a fitted segmenter."""

    def __init__(self) -> None:
        scores = np.zeros((1, SIDE, SIDE), dtype=np.float32)
        scores[0, 2:5, 3:6] = 0.75
        found = Segmentation(("cat",), np.zeros((SIDE, SIDE), np.uint8), scores, None, None, "a")
        self.found = found.at_threshold(0.5)

    def stream(self, images: Iterator[Path], **_: object) -> Iterator[Segmentation]:
        """The same for every image."""
        return (self.found for _ in images)


class OneFile(Queries):
    """Many paths of one file."""

    def __getitem__(self, index):  # noqa: ANN001, ANN204
        return Query(self.paths[index], self.root)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def measure(images: int, folder: Path) -> dict[str, float]:
    """A run of so many images, and a second one that has nothing to do."""
    file = folder / "image.png"
    Image.new("RGB", (SIDE, SIDE)).save(file)
    output, settings = folder / "out.json", {"benchmark": "engine"}
    before = resident()
    queries = OneFile([f"folder/image-{number:09}.jpg" for number in range(images)], str(file))
    most = before

    def watched(tried: int) -> None:
        nonlocal most
        if tried % max(1, images // 50) == 0:
            most = max(most, resident())

    def first() -> None:
        with region_job(queries, output, settings) as job:
            job.run(Stub(), How(), on_progress=watched)  # type: ignore[arg-type]
            assert len(job.journal) == images

    def again() -> None:
        with region_job(queries, output, settings) as job:
            assert not job.waiting

    def written() -> None:
        with region_job(queries, output, settings) as job:
            write_files(lambda: found(job), Labels(("cat",), ()), output, "coco")

    def listed() -> None:
        with region_job(queries, output, settings) as job, (folder / "r.json").open("w") as out:
            out.writelines(results_of(job.journal))

    seconds = {}
    for name, part in (("run", first), ("again", again), ("coco", written), ("list", listed)):
        start = time.monotonic()
        part()
        seconds[name] = time.monotonic() - start
    return {
        "images": images,
        "run_ms_per_image": round(1e3 * seconds["run"] / images, 3),
        "again_s_per_50000": round(5e4 * seconds["again"] / images, 2),
        "write_coco_s_per_50000": round(5e4 * (seconds["coco"] - seconds["again"]) / images, 2),
        "write_results_s_per_50000": round(5e4 * (seconds["list"] - seconds["again"]) / images, 2),
        "bytes_per_image": round((most - before) / images),
        "journal_bytes_per_image": round((folder / "out.json.journal").stat().st_size / images),
    }


def found(job: Job) -> Iterator:
    """What a job found, image by image."""
    for query in job.done():
        yield Proposal.of(query.path, job.journal.read(query.path).found).file


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of images in a process of its own; print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 50_000, 1_000_000])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.here:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(given.images[0], Path(folder))))
        return
    rows = []
    for images in given.images:
        command = [sys.executable, __file__, "--here", "--images", str(images)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(said))
        print(rows[-1], flush=True)
    given.output.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
