"""The how-to "Pre-annotate a Label Studio project", run as it is written."""

import json
import re
import shlex
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from piclip.datasets.scenes import make_scene

sys.path.append(str(Path(__file__).resolve().parents[1] / "label_studio"))
from fake_label_studio import TOKEN, FakeLabelStudio

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-label-studio.md"
CLASSES = ("cat", "star")
PORT = "9090"  # on the page
RUN = "import sys; from piclip.cli import main; sys.exit(main())"


def blocks_of(page):
    return re.findall(r"```(python|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def commands_of(text):
    return [shlex.split(line)[1:] for line in text.replace("\\\n", " ").splitlines()]


@pytest.fixture
def label_studio(monkeypatch):
    """A Label Studio without tasks, where the page's variables lead to."""
    with FakeLabelStudio().running() as fake:
        monkeypatch.setenv("LABEL_STUDIO_URL", fake.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
        yield fake


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def import_tasks(fake, tasks):
    """What a person does on the page before they label: images served, tasks there."""
    fake.config = Path("interface.xml").read_text()
    fake.answer_api = fake.answer

    def answer(path, query, token):
        if path == "/data/local-files/" and token == f"Token {TOKEN}":
            return 200, {}, Path(query["d"][0]).read_bytes()
        return fake.answer_api(path, query, token)

    fake.answer = answer
    for task in tasks:
        fake.add_task(task["id"], task["data"]["image"])
        fake.tasks[task["id"]]["data"] = task["data"]
        for annotation in task.get("annotations", []):
            fake.annotate(task["id"], *annotation["result"])


def masks_of(prediction):
    """By class, what a prediction marks: bool (H, W). It must fit the labelling interface."""
    interface = LabelInterface(Path("interface.xml").read_text())
    assert interface.validate_prediction(prediction, return_errors=True) == []
    masks = {name: np.zeros((128, 128), bool) for name in CLASSES}
    for result in prediction["result"]:
        [name] = result["value"]["brushlabels"]
        size = result["original_height"], result["original_width"], 4
        masks[name] |= brush.decode_rle(result["value"]["rle"]).reshape(size)[:, :, 3] > 127
    return masks


def overlap(masks, others):
    """Pixels in the intersection and the union."""
    return (masks & others).sum(), (masks | others).sum()


def test_the_page_runs_against_a_label_studio(
    piclip, label_studio, free_port, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    draw, annotate, hand_over, serve, connect = blocks_of(PAGE)
    shared = {}

    exec(compile(draw[1], str(PAGE), "exec"), shared)
    tasks = json.loads(Path("export.json").read_text())
    import_tasks(label_studio, tasks)
    unlabelled = [task["id"] for task in tasks if "annotations" not in task]
    assert len(tasks) - len(unlabelled) == 3

    [command] = commands_of(annotate[1])
    ran = piclip(*command)
    assert ran.code == 0, ran.err
    exec(compile(hand_over[1], str(PAGE), "exec"), shared)
    given = {number: label_studio.tasks[number]["predictions"] for number in unlabelled}
    by_file = {number: masks_of(*found) for number, found in given.items() if found}
    for name in CLASSES:
        counts = []
        for number, masks in by_file.items():
            truth = make_scene(2422, number - 1, include=CLASSES[(number - 1) % 2]).mask(name)
            if truth.any():
                counts.append((*overlap(masks[name], truth), truth.sum(), truth.size))
        inside, union, area, pixels = np.sum(counts, axis=0)
        # At least twice as good as marking the whole of every image that shows the class.
        assert inside / union > 2 * area / pixels

    asked = list(by_file)[:2]
    with running(*commands_of(serve[1])[0], "--port", free_port) as server:
        exec(compile(connect[1].replace(PORT, free_port), str(PAGE), "exec"), shared)
        assert label_studio.backend == f"http://127.0.0.1:{free_port}"
        results = label_studio.predict(label_studio.backend, *asked).json()["results"]
        version = label_studio.setup(label_studio.backend).json()["model_version"]
    for number, prediction in zip(asked, results, strict=True):
        assert prediction["model_version"] == version
        for name, mask in masks_of(prediction).items():
            inside, union = overlap(mask, by_file[number][name])
            assert inside >= 0.99 * union  # both ways are one; batches round differently
    assert server.returncode == 0


@contextmanager
def running(*command):
    """The server as a process of its own; it must end without a complaint."""
    program = [sys.executable, "-c", RUN, *command]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert any(f"http://127.0.0.1:{command[-1]} " in line for line in server.stderr)
            yield server
        finally:
            server.terminate()  # as Ctrl-C does, which a job in the background would ignore
        said = server.stderr.read()
    assert said.endswith("Ended.\n"), said
    assert "Traceback" not in said


def test_the_picture_shows_eight_scenes():
    with Image.open(PAGE.parent / "images" / "howto-label-studio.png") as picture:
        assert picture.width / picture.height == pytest.approx(4, abs=0.1)
