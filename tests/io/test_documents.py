"""JSON and YAML that somebody hands us: whatever is in it, one sentence, soon and in bounds."""

import json
import os

import pytest
import yaml

from piclip.datasets.coco_json import CocoJson
from piclip.datasets.episode_files import read_episodes
from piclip.errors import DatasetError, ModelError, PiclipError, UsageError
from piclip.evaluation.records import read_result
from piclip.formats import read_labels
from piclip.formats.image_files import find_image
from piclip.io.documents import (
    MOST_LEVELS,
    MOST_YAML_BYTES,
    parse_json,
    parse_yaml,
    read_json,
    read_yaml,
)
from piclip.io.images import list_images, read_image
from piclip.segmenter import FewShotSegmenter
from piclip.training.recipe import load_recipe
from sentences import one_sentence

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "laughs": (LAUGHS, "100,000 values"),
    "merges": (MERGES, "100,000 values"),
    "itself": ("fold: &a [*a]", "levels deep"),
    "its own key": ("fold: &a {b: *a}", "levels deep"),
    "deep": ("[" * 5000 + "]" * 5000, "levels deep"),
    "python": ("!!python/object/apply:os.system [echo]", "no valid YAML"),
    "a day that is none": ("2020-99-99", "no valid YAML"),
    "cut": ("{a: 1", "no valid YAML"),
}


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(("text", "words"), BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_that_would_unfold_without_end(text, words):
    with pytest.raises(ValueError, match=words):
        parse_yaml(text)


def test_yaml_with_anchors_and_merges_is_read_as_by_pyyaml():
    text = "a: &a {x: 1, y: [1, 2.5, null]}\nb: {<<: *a, y: yes}\nc: [*a, *a, 2020-01-02]\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


@pytest.mark.parametrize("levels", [MOST_LEVELS + 1, 900, 100_000])
def test_json_that_is_nested_too_deeply(levels):
    with pytest.raises(ValueError, match="levels deep"):
        parse_json('{"a": ' + deep(levels - 1) + "}")


def test_brackets_in_texts_are_no_levels():
    content = {"a": "[" * 100, 'b"{': ['\\"[{', "\\", deep(100)], "c": [[]]}
    assert parse_json(json.dumps(content)) == content
    assert parse_json(deep(MOST_LEVELS))


@pytest.mark.parametrize("text", ["", "{", "[1" + "0" * 5000 + "]", "nonsense"])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_files_that_are_too_large_or_none(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    large = tmp_path / "large.yaml"
    large.write_text("a: " + "b" * MOST_YAML_BYTES)
    sparse = tmp_path / "sparse.json"
    with sparse.open("wb") as file:
        file.truncate(10**12)
    for path in (pipe, "/dev/zero", tmp_path, tmp_path / "nothing", "x" * 300):
        for read in (read_json, read_yaml):
            with pytest.raises(OSError):
                read(path)
    for read, path in ((read_yaml, large), (read_json, sparse)):
        with pytest.raises(ValueError, match="larger than"):
            read(path)
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match="UTF-8"):
        read_json(tmp_path / "bytes.json")


READERS = {
    "labels": (lambda path: read_labels(path, format="coco"), UsageError),
    "labelme": (lambda path: read_labels(path, format="labelme"), UsageError),
    "recipe": (load_recipe, UsageError),
    "episodes": (read_episodes, DatasetError),
    "result": (read_result, UsageError),
    "dataset": (lambda path: CocoJson(path.parent, val_annotations=path.name), DatasetError),
    "weights": (FewShotSegmenter.from_pretrained, ModelError),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_says_it_in_one_sentence(tmp_path, reader):
    read, kind = READERS[reader]
    nested = tmp_path / "deep.json"
    nested.write_text(deep(100_000))
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    for path in (nested, pipe, tmp_path / "a\0b.json", tmp_path / ("x" * 300 + ".json")):
        with pytest.raises(kind) as error:
            read(path)
        text = str(error.value)
        assert "\n" not in text
        assert text.endswith(".")


def test_a_yolo_folder_whose_names_laugh(tmp_path):
    (tmp_path / "data.yaml").write_text(LAUGHS.replace("i: &i", "names: &i"))
    with pytest.raises(UsageError, match="100,000 values") as error:
        read_labels(tmp_path, format="yolo", images=tmp_path)
    one_sentence(error)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png"])
def test_names_that_no_file_can_have(tmp_path, name):
    assert find_image(tmp_path, name) is None
    for read in (read_image, list_images):
        with pytest.raises(PiclipError) as error:
            read(tmp_path / name)
        assert str(error.value).endswith(".")
    with pytest.raises(UsageError):
        read_labels(tmp_path / name)
