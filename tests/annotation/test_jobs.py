"""Jobs of many images: nothing lost, nothing stale, whatever happens while they run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piclip import Support
from piclip.annotation.answers import How
from piclip.annotation.jobs import journal_path, mask_job, region_job
from piclip.annotation.queries import Queries, own_names, query_files
from piclip.annotation.sinks import MaskFiles
from piclip.datasets.scenes import make_scene
from piclip.errors import OutputError, PiclipError, UsageError
from piclip.io.images import read_image
from piclip.results import Segmentation

SETTINGS = {"model": "stub"}


class Stub:
    """Marks what is brighter than the middle, at once; ``before`` is told of every image."""

    def __init__(self, before=lambda file: None):
        self.before = before

    def stream(self, images, *, on_error, batch_size, threshold, min_presence, max_pixels):
        for file in images:
            self.before(file)
            try:
                image = read_image(file)
            except PiclipError as error:
                on_error(file, error)
                continue
            scores = np.asarray(image.convert("L"), dtype=np.float32)[None] / 255
            blank = np.zeros(scores.shape[1:], dtype=np.uint8)
            yield Segmentation(("cat",), blank, scores, None, image, "a").at_threshold(0.5)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number:02}.png")
    return folder


@pytest.fixture
def world_of_scenes(segmenter, tmp_path):
    """A segmenter that knows cats, and a folder of six scenes and a file that is no image."""
    scene = make_scene(7, 0, include="cat")
    Image.fromarray(scene.image).save(tmp_path / "support.png")
    Image.fromarray(scene.mask("cat")).save(tmp_path / "mask.png")
    segmenter.fit(Support(scene.image, scene.mask("cat")), name="cat")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 7):
        Image.fromarray(make_scene(7, number).image).save(folder / f"photo{number}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return segmenter, folder


def run_masks(photos, output, segmenter=None, **options):
    """Segment a folder; the images that failed."""
    files = query_files([photos], output, [])
    with mask_job(files, output, SETTINGS) as job:
        job.run(segmenter or Stub(), How(batch_size=2), **options)
        return {Path(failure.path).name: failure.reason for failure in job.failures()}


def tree(folder):
    """Every file of a folder but the journal, whose lines may come in several runs."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".journal"
    }


def bright(path):
    return Image.new("RGB", (8, 6), "white").save(path)


def test_an_image_replaced_while_it_is_segmented_is_told_and_done_again(photos, tmp_path):
    def replaced(file):
        if file.name == "photo03.png":
            bright(file)

    output = tmp_path / "out"
    # The stub reads the new image; a stamp taken after that would call it done.
    failed = run_masks(photos, output, Stub(replaced))
    assert list(failed) == ["photo03.png"]
    assert "vanished or changed meanwhile" in failed["photo03.png"]
    assert run_masks(photos, output) == {}
    assert np.asarray(Image.open(output / "photo03.png")).min() == 255


def test_images_that_vanish_or_break_are_listed_and_the_rest_is_done(photos, tmp_path):
    def harmed(file):
        if file.name == "photo01.png":
            (photos / "photo02.png").write_bytes(b"nothing")
            (photos / "photo07.png").unlink()
            file.unlink()

    failed = run_masks(photos, tmp_path / "out", Stub(harmed))
    assert list(failed) == ["photo01.png", "photo02.png", "photo07.png"]
    assert "no such file" in failed["photo01.png"]
    entries = json.loads((tmp_path / "out" / "results.json").read_text())["images"]
    assert [Path(entry["file"]).name for entry in entries] == [
        f"photo{number:02}.png" for number in range(12)
    ]
    assert [entry["status"] for entry in entries].count("done") == 9


@pytest.mark.parametrize("back", [False, True])
def test_an_output_that_is_taken_away_ends_the_run(photos, tmp_path, back):
    output, away = tmp_path / "out", tmp_path / "away"

    def taken(file):
        if file.name == "photo06.png":
            output.rename(away)
            if back:  # what a disk was mounted over
                output.mkdir()

    with pytest.raises(OutputError, match="taken away"):
        run_masks(photos, output, Stub(taken))
    if back:
        for file in output.glob("*.png"):  # until the journal is found missing
            file.unlink()
        output.rmdir()  # nothing else is there
    assert not output.exists()
    away.rename(output)
    half = output / ".piclip-0123456789ab.png"
    half.touch()  # where the folder went while it was written
    assert run_masks(photos, output) == {}
    assert not half.exists()
    assert len(list(output.glob("*.png"))) == 12


class Slow(MaskFiles):
    """Takes longer to write than the run, which ends with an error, would take to end."""

    def keep(self, query, result):
        time.sleep(0.2)
        return super().keep(query, result)


def test_nothing_is_written_any_more_once_a_run_has_ended_with_an_error(photos, tmp_path):
    output = tmp_path / "out"

    def full(entry):
        raise OutputError("the disk is full")

    with mask_job(query_files([photos], output, []), output, SETTINGS) as job:
        job.sink, job.journal.append = Slow(output), full
        with pytest.raises(OutputError, match="the disk is full") as raised:
            job.run(Stub(), How(batch_size=2))
        written = tree(output)
        time.sleep(0.5)
        assert tree(output) == written
        del raised  # until here it holds all that was in use when it was raised


HOLDER = """
import sys, time
from pathlib import Path
from piclip.io.ownership import owned
with owned(Path(sys.argv[1]), Path(sys.argv[1]) / ".piclip.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_an_output_is_written_by_one_run_and_a_dead_ones_lock_is_none(photos, tmp_path):
    output = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, output], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"is being written by process {holder.pid} on "):
            run_masks(photos, output)
        assert not list(output.glob("*.png"))
    finally:
        holder.kill()
        holder.wait()
    assert (output / ".piclip.lock").exists()
    assert run_masks(photos, output) == {}
    assert not (output / ".piclip.lock").exists()


def slow_stub():
    return Stub(lambda file: time.sleep(0.002))


def kill_in_the_middle(photos, output, seconds):
    """Run in a process of its own and kill it after a time; whether it had ended by then."""
    child = os.fork()
    if child == 0:
        try:
            run_masks(photos, output, slow_stub())
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_point_a_job_ends_as_if_nothing_was(photos, tmp_path, kills):
    started = time.monotonic()
    run_masks(photos, tmp_path / "whole", slow_stub())
    most = 1.5 * (time.monotonic() - started)  # of a busy computer more
    expected = tree(tmp_path / "whole")
    chance, done = random.Random(0), 0
    for number in range(kills):
        output = tmp_path / f"killed{number}"
        while not kill_in_the_middle(photos, output, chance.uniform(0.0, most)):
            done += 1
        run_masks(photos, output)
        (output / ".piclip.lock").unlink(missing_ok=True)
        assert tree(output) == {
            name: data.replace(b"whole", f"killed{number}".encode())
            for name, data in expected.items()
        }
    assert done >= kills / 2


@pytest.mark.slow
def test_processes_give_what_one_gives_byte_by_byte(world_of_scenes, tmp_path):
    segmenter, photos = world_of_scenes
    for workers in (1, 2):
        output = tmp_path / f"masks{workers}"
        files = query_files([photos], output, [])
        with mask_job(files, output, SETTINGS, overlays=True) as job:
            job.run(segmenter, How(batch_size=2), workers=workers)
            assert [Path(f.path).name for f in job.failures()] == ["broken.png"]
    one, two = tree(tmp_path / "masks1"), tree(tmp_path / "masks2")
    assert len(one) == 2 * 6 + 1
    assert one == two


class Deadly(MaskFiles):
    """Ends the process it is in, while the other is at an image before that."""

    def keep(self, query, result):
        if query.name == "photo1":
            time.sleep(600)
        if query.name == "photo3":
            os._exit(1)
        return super().keep(query, result)


@pytest.mark.slow
def test_a_process_that_dies_is_told_and_what_is_finished_is_kept(world_of_scenes, tmp_path):
    segmenter, photos = world_of_scenes
    output = tmp_path / "out"
    with mask_job(query_files([photos], output, []), output, SETTINGS) as job:
        job.sink = Deadly(output)
        with pytest.raises(PiclipError, match="fewer workers: what is finished is kept"):
            job.run(segmenter, How(batch_size=1), workers=2)
    with mask_job(query_files([photos], output, []), output, SETTINGS) as job:
        assert job.earlier == 1  # photo2, though it comes after the one that was not finished
        job.run(segmenter, How(batch_size=1))
        assert [Path(f.path).name for f in job.failures()] == ["broken.png"]


def test_regions_of_a_job_come_in_the_order_of_the_images(photos, tmp_path):
    output = tmp_path / "labels.json"
    names = sorted(path.name for path in photos.iterdir())
    queries = Queries(names, str(photos))
    with region_job(queries, output, SETTINGS) as job:
        job.run(Stub(), How(batch_size=5))
        assert [entry.path for entry in job.journal.entries()] == names
        assert [query.path for query in job.done()] == names
        assert job.failures() == []
    assert journal_path(output).exists()
    with region_job(queries, output, SETTINGS) as job:
        assert (job.waiting, job.earlier) == ([], 12)
    with (
        region_job(queries, output, SETTINGS) as job,
        pytest.raises(UsageError, match="workers must be 1 or more"),
    ):
        job.run(Stub(), How(), workers=0)


def test_names_of_outputs_never_collide_and_earlier_ones_stay():
    paths = ["/a/cat.jpg", "/a/Cat.png", "/b/cat.jpg", "/b/dog.jpg", "/b/dog.jpg.png", "/c/one.png"]
    names = own_names(paths, lambda path: None, ())
    stems = [names.get(path) or Path(path).stem for path in paths]
    assert len({stem.casefold() for stem in stems}) == len(stems)
    assert stems[3] == "dog" and stems[5] == "one"
    earlier = {"/a/cat.jpg": "cat", "/c/one.png": "other"}
    names = own_names(paths, earlier.get, [*earlier.values(), "dog"])
    assert names.get("/a/cat.jpg", "cat") == "cat"
    assert names["/c/one.png"] == "other"
    assert names["/b/dog.jpg"] not in {"dog", "dog.jpg"}


def test_names_of_outputs_are_none_that_a_disk_refuses(tmp_path):
    long, wide = "x" * 251, "\u732b" * 83
    names = [f"{stem}.{kind}" for stem in (long, wide, "z" * 247) for kind in ("jpg", "png")]
    paths = [f"/{n}/{name}" for n, name in enumerate([*names, f"{long}.jpg", "y" * 255, "w" * 251])]
    names = own_names(paths, lambda path: None, ())
    stems = [names.get(path) or Path(path).stem for path in paths]
    for stem in stems:
        (tmp_path / f"{stem}.png").touch(exist_ok=False)
    assert stems[-1] == "w" * 251 and stems[4] == "z" * 247 + ".jpg"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_stops_a_command_as_ctrl_c_does(world_of_scenes, tmp_path, model, name):
    _, photos = world_of_scenes
    for number in range(400):
        (photos / f"more{number:03}.png").symlink_to(photos / "photo1.png")
    output = tmp_path / "out"
    arguments = [
        *("segment", "--model", model, "--device", "cpu"),
        *("--support", photos.parent / "support.png", "--mask", photos.parent / "mask.png"),
        *("--name", "cat", "--query", photos, "--output", output, "--batch-size", "1"),
    ]
    command = [sys.executable, "-m", "piclip", *map(str, arguments)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    journal = output / "results.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(getattr(signal, name))
    said = running.communicate()[1].decode()
    assert running.returncode == 1, said
    assert "images done; run the same command again to go on." in said
    assert "Traceback" not in said
    entries = json.loads((output / "results.json").read_text())["images"]
    done = sum(entry["status"] == "done" for entry in entries)
    assert f"Stopped with {done} of 407 images done" in said
    assert not (output / ".piclip.lock").exists()


def test_the_documented_lines_work(world_of_scenes, model, tmp_path, monkeypatch, capsys):
    _, photos = world_of_scenes
    page = Path(__file__).parents[2] / "docs" / "many-images.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace('"openai/clip-vit-base-patch16"', repr(str(model)))
    code = code.replace("zebra.jpg", "support.png").replace("zebra.png", "mask.png")
    monkeypatch.chdir(photos.parent)
    exec(code.replace("workers=2", "workers=1"), {})
    assert "broken.png" in capsys.readouterr().out
    assert len(list(Path("masks").glob("*.png"))) == 6
