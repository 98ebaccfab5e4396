"""Images a second of ``piclip annotate`` on one process, on several, and on a local Ray.

    python benchmarks/workers.py [--images 2000] [--model builtin] [--output FILE]

The images are those of ``annotate_memory.py``. Each way runs as the command itself, in a process of
its own, first on a few images and then on all: the difference is the rate, and what the few take is
the start. All ways must find the same, or the exit code is 1; only where torch adds up on two
threads, the last digits may be others, and the images in which they are get counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from annotate_memory import write_images

from piclip.annotation.parquet import Row, read_rows

FEW = 16
WAYS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one_process_one_thread": (1, ()),
    "one_process_two_threads": (2, ()),
    "two_workers": (1, ("--workers", "2")),
    "shards_one_process": (1, ("--engine", "local", "--shards", "20")),
    "ray_two_actors": (1, ("--engine", "ray", "--actors", "2", "--shards", "20")),
}
"""Threads of torch in each process, and options of the command."""

COMMAND = """
import resource, sys
from piclip.cli import main
if __name__ == "__main__":
    code = main(sys.argv[1:])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
    sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """What one way took.

    Attributes:
        start_seconds: Of the whole command on a few images.
        seconds: Of the whole command on all.
        images_per_second: From the difference of the two.
        peak_mib: Most resident memory of the command's own process, which on Ray is the driver.
        bytes_per_image: Of Parquet.
        differing_images: In how many images something else was found than by the first way.
    """

    start_seconds: float
    seconds: float
    images_per_second: float
    peak_mib: float
    bytes_per_image: float
    differing_images: int


def run(folder: Path, output: Path, model: str, threads: int, options: Sequence[str]) -> float:
    """Run the command; gives the peak of its memory in MiB."""
    script = folder / "command.py"
    script.write_text(COMMAND)
    ran = subprocess.run(
        [
            *(sys.executable, script, "annotate", "--images", folder / "photos"),
            *("--labels", folder / "labels.json", "--model", model, "--device", "cpu"),
            *("--output", output, "--output-format", "parquet", "--min-area", "0", *options),
        ],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return int(ran.stderr.split()[-1]) / 1024


def found(output: Path) -> dict[str, Row]:
    """What was found, by path."""
    files = sorted(output.glob("shards/*.parquet")) if output.is_dir() else [output]
    return {row["path"]: row for file in files for row in read_rows(file)}


def measure(few: Path, many: Path, model: str) -> dict[str, Measured]:
    """Run all ways."""
    measured: dict[str, Measured] = {}
    expected: dict[str, Row] = {}
    for way, (threads, options) in WAYS.items():
        times = []
        for folder in (few, many):
            begun = time.monotonic()
            output = folder / f"{way}.parquet"
            peak = run(folder, output, model, threads, options)
            times.append(time.monotonic() - begun)
        rows = found(output)
        expected = expected or rows
        files = [output] if output.is_file() else list(output.glob("shards/*.parquet"))
        differing = sum(rows.get(path) != row for path, row in expected.items())
        measured[way] = Measured(
            start_seconds=round(times[0], 2),
            seconds=round(times[1], 2),
            images_per_second=round((len(rows) - FEW) / (times[1] - times[0]), 2),
            peak_mib=round(peak, 1),
            bytes_per_image=round(sum(file.stat().st_size for file in files) / len(rows), 1),
            differing_images=differing + len(rows.keys() - expected.keys()),
        )
        print(way, measured[way], flush=True)
    return measured


def main() -> int:
    """Run the benchmark; the exit code says whether all ways found the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("workers.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        few, many = Path(scratch) / "few", Path(scratch) / "many"
        for folder, count in ((few, FEW), (many, options.images)):
            folder.mkdir()
            write_images(folder, count)
        measured = measure(few, many, options.model)
    said = {
        "images": options.images,
        "model": options.model,
        "cores": os.cpu_count(),
        "ways": {way: asdict(figures) for way, figures in measured.items()},
    }
    options.output.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    same = (figures for way, figures in measured.items() if WAYS[way][0] == 1)
    return int(any(figures.differing_images for figures in same))


if __name__ == "__main__":
    sys.exit(main())
