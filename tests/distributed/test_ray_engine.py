"""Jobs in shards on a local Ray, whose actors and driver are killed."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from piclip.distributed import annotate
from piclip.distributed.export import Export
from piclip.distributed.ray_engine import Pool
from piclip.errors import PiclipError
from piclip.formats import Labels
from piclip.formats.cleaning import AS_FOUND, kept

DRIVER = """
import sys
from piclip import FewShotSegmenter
from piclip.distributed import annotate

if __name__ == "__main__":
    segmenter = FewShotSegmenter.load(sys.argv[1], device="cpu", dtype="float32")
    annotate(segmenter, sys.argv[2], sys.argv[3], shards=12, engine="ray", actors=2)
"""


@pytest.fixture
def whole(segmenter, photos, tmp_path):
    """What one process finds."""
    return annotate(segmenter, photos, tmp_path / "whole", shards=12)


@pytest.mark.slow
def test_two_actors_find_what_one_process_finds(segmenter, photos, tmp_path, whole):
    # Begun here, ended there, and taken up here again.
    first = annotate(segmenter, photos, tmp_path / "out", shards=12)
    missing = sorted(first.shards.done())[3:]
    for number in missing:
        Path(first.shards.place(number)).unlink()
    seen = []
    done = annotate(
        segmenter,
        photos,
        f"file://{tmp_path}/out",
        engine="ray",
        actors=2,
        on_progress=lambda images, rows: seen.append(images),
    )
    assert list(done.shards.rows()) == list(whole.shards.rows())
    assert (done.images, done.failed) == (13, 1)
    assert 0 < done.earlier == seen[0] < seen[-1] == 13
    assert annotate(segmenter, photos, tmp_path / "out").earlier == 13


@pytest.mark.slow
@pytest.mark.parametrize("format", ["masks", "coco"])
def test_the_cluster_writes_the_label_files_of_one_process(whole, tmp_path, format):
    keep = partial(kept, min_score=0.0, cleaning=AS_FOUND)
    for name, pool in (("here", None), ("there", Pool(actors=2))):
        target = tmp_path / name / "out"
        Export(whole.shards, Labels(("cat",), ()), str(target), format, keep).write(pool)
    here, there = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "here", tmp_path / "there")
    )
    assert here == there
    assert here


@pytest.mark.slow
def test_an_actor_that_cannot_write_ends_the_job_in_one_sentence(segmenter, photos, tmp_path):
    shards = tmp_path / "out" / "shards"
    shards.parent.mkdir()
    shards.write_text("a file where the folder should be")
    with pytest.raises(PiclipError, match="a file is where a folder should be"):
        annotate(segmenter, photos, tmp_path / "out", engine="ray", actors=1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["actor", "driver"])
def test_what_is_killed_costs_no_image_and_doubles_none(segmenter, photos, tmp_path, whole, killed):
    segmenter.save(tmp_path / "saved")
    (tmp_path / "driver.py").write_text(DRIVER)
    output = tmp_path / "out"
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path / "saved", photos, output],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: list(output.glob("shards/part-*")) or driver.poll() is not None)
        assert driver.poll() is None
        if killed == "actor":
            actors = _actors_of(driver.pid)
            assert actors
            for process in actors:
                os.kill(process, signal.SIGKILL)
            assert driver.wait(300) == 0
        else:
            driver.kill()
            driver.wait()
            assert len(list(output.glob("shards/part-*"))) < len(whole.shards.done())
            _wait(lambda: not _actors_of(driver.pid))
    finally:
        driver.kill()
        driver.wait()
    done = annotate(segmenter, photos, output, engine="ray", actors=3)
    assert list(done.shards.rows()) == list(whole.shards.rows())
    paths = [
        path
        for file in sorted(output.glob("shards/*.parquet"))
        for path in pq.read_table(file)["path"].to_pylist()
    ]
    assert len(paths) == len(set(paths)) == 13


def _wait(ready):
    end = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def _actors_of(driver):
    """The processes of a driver's actors, by what Ray has them called in /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            called = (process / "cmdline").read_bytes()
            session = os.getsid(int(process.name))
        except OSError:
            continue
        if called.startswith(b"ray::MapWorker") and session == driver:
            found.append(int(process.name))
    return found
