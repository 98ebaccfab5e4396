"""Labelled scenes, and the command line run in this process."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from piclip.cli import app, main
from piclip.datasets.scenes import make_scene
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask, read_labels, write_labels


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def sentence(self):
        """The error's own line, which must be the last and the only one of its kind."""
        lines = self.err.strip().splitlines()
        assert "Traceback" not in self.err
        assert [line for line in lines if line.startswith("piclip: ")] == lines[-1:]
        return lines[-1].removeprefix("piclip: ")


@pytest.fixture
def piclip(capsys):
    """Run the command line; the call returns exit code, stdout and stderr."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def run(request, capsys):
    """Call the command that the test's module names; its errors are raised, not printed."""
    group = typer.main.get_command(app)

    def call(*arguments):
        capsys.readouterr()
        command = [request.module.COMMAND, *(str(argument) for argument in arguments)]
        group(command, standalone_mode=False)
        return capsys.readouterr()

    return call


@dataclass(frozen=True)
class World:
    """A folder with a labelled scene and three to segment."""

    folder: Path
    model: Path

    @property
    def support(self):
        return self.folder / "support.png"

    @property
    def mask(self):
        return self.folder / "mask.png"

    @property
    def photos(self):
        return self.folder / "photos"

    @property
    def output(self):
        return self.folder / "out"

    def command(self, *more, query=None, output=None):
        """Arguments of ``piclip segment``."""
        return (
            *("segment", "--model", self.model, "--device", "cpu", "--dtype", "float32"),
            *("--support", self.support, "--mask", self.mask, "--name", "cat"),
            *("--query", query or self.photos, "--output", output or self.output, *more),
        )


@pytest.fixture
def world(tmp_path, model):
    world = World(tmp_path, model)
    scene = make_scene(7, 0, include="cat")
    Image.fromarray(scene.image).save(world.support)
    Image.fromarray(scene.mask("cat")).save(world.mask)
    world.photos.mkdir()
    for number in range(1, 4):
        Image.fromarray(make_scene(7, number).image).save(world.photos / f"photo{number}.png")
    return world


@dataclass(frozen=True)
class Album:
    """Six photos of cats; in the first two cats are labelled, in the second also its sky."""

    folder: Path

    @property
    def photos(self):
        return self.folder / "photos"

    def json(self, name="out.json"):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def labels(self, name="labels.json"):
        return read_labels(self.folder / name, images=self.photos)

    def by_path(self, name="out.json"):
        return {file.path: file for file in self.labels(name).images}


@pytest.fixture
def album(tmp_path):
    album = Album(tmp_path)
    album.photos.mkdir()
    files = []
    for number in range(6):
        scene = make_scene(32, number, include="cat")
        Image.fromarray(scene.image).save(album.photos / f"photo{number}.png")
        regions = [Region("cat", RunLengthMask.from_array(scene.mask("cat")))]
        if number == 1:
            sky = np.zeros((128, 128), dtype=np.bool_)
            sky[:20] = ~scene.mask("cat")[:20]
            regions.append(Region("sky", RunLengthMask.from_array(sky)))
        shown = tuple(regions) if number < 2 else ()
        files.append(LabelledFile(f"photo{number}.png", 128, 128, shown, id=100 + number))
    labels = Labels(("sky", "cat"), tuple(files), (5, 3))
    write_labels(labels, tmp_path / "labels.json", format="coco")
    return album


@pytest.fixture
def annotate(piclip, album, model):
    """Run the command on the album; options given again replace the usual ones."""

    def run(*more, output="out.json", labels="labels.json"):
        target = () if output is None else ("--output", album.folder / output)
        return piclip(
            *("annotate", "--images", album.photos, "--labels", album.folder / labels, *target),
            *("--model", model, "--device", "cpu", "--dtype", "float32", *more),
        )

    return run
