"""JSON and YAML that somebody hands us: whatever is in it, one sentence, soon and in bounds."""

import json
import os
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from piclip.datasets.coco_json import CocoJson
from piclip.datasets.episode_files import read_episodes
from piclip.errors import DatasetError, ModelError, PiclipError, UsageError
from piclip.evaluation.records import read_result
from piclip.formats import read_labels
from piclip.formats.image_files import find_image
from piclip.io import documents
from piclip.io.documents import (
    MOST_LEVELS,
    MOST_YAML_BYTES,
    json_fields,
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
    "a key twice": ("a: 1\nb: {c: 2}\na: 3", "'a' is written twice, on lines 1 and 3"),
    "a key of a part twice": ("a:\n  b: 1\n  'b': 2", "'b' is written twice, on lines 2 and 3"),
    "a key twice on a line": ("[{a: 1, a: 1}]", "'a' is written twice, on lines 1 and 1"),
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
    text = "{1: x, '1': y, a: {a: &a {b: 1}}, b: {<<: *a, b: 2}}"
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


def fields_of(path):
    return dict(json_fields(path))


def streamed(path, text, chunk=7):
    """The object that the fields of a file are of, read a few characters at a time."""
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_CHUNK", chunk)
        return {
            name: list(value) if isinstance(value, Iterator) else value
            for name, value in json_fields(path)
        }


TEXTS = st.text(st.sampled_from('ab\\"[]{}:,é\n\u2028😀 '), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("documents") / "fields.json"


@given(
    st.dictionaries(TEXTS, VALUES, max_size=5),
    st.sampled_from([None, 3]),
    st.booleans(),
    st.integers(1, 40),
)
def test_fields_are_those_of_the_whole_object(file, content, indent, ascii_only, chunk):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    assert streamed(file, text, chunk) == content
    assert streamed(file, f"\ufeff \t{text}\n\n", chunk) == content


@given(
    st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3).map(json.dumps),
    st.data(),
    st.sampled_from(["", *'x"[]{},:0.e\\']),
)
def test_fields_are_refused_where_the_whole_object_is(file, text, data, instead):
    at = data.draw(st.integers(0, len(text) - 1))
    spoilt = text[:at] + instead + text[at + 1 :]
    try:
        expected = json.loads(spoilt)
    except json.JSONDecodeError:
        with pytest.raises(ValueError, match="not valid JSON"):
            streamed(file, spoilt)
    else:
        assert streamed(file, spoilt) == (expected if isinstance(expected, dict) else {})


def test_what_is_left_of_a_list_is_gone_over(file):
    file.write_text('{"a": [1, 2, 3], "b": [], "c": [[4]], "d": 5}')
    steps = []
    fields = json_fields(file, lambda done, total: steps.append((done, total)))
    assert [(name, next(v, None) if name < "d" else v) for name, v in fields] == [
        ("a", 1), ("b", None), ("c", [4]), ("d", 5),
    ]  # fmt: skip
    size = file.stat().st_size
    assert steps and all(step == (size, size) for step in steps)


@pytest.mark.parametrize("shape", ['{{"a": {}}}', '{{"a": [{}]}}', "{}"])
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_fields_are_as_deep_as_a_whole_object_may_be(file, shape, chunk):
    around = shape.format("").count("[") + shape.count("{{")
    text = shape.format(deep(MOST_LEVELS - around))
    assert streamed(file, text, chunk) == (parse_json(text) if around else {})
    for more in (1, 5_000):
        with pytest.raises(ValueError, match="levels deep"):
            streamed(file, shape.format(deep(MOST_LEVELS - around + more)), chunk)


def test_files_that_are_too_large_or_none(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    large = tmp_path / "large.yaml"
    large.write_text("a: " + "b" * MOST_YAML_BYTES)
    sparse = tmp_path / "sparse.json"
    with sparse.open("wb") as file:
        file.truncate(10**12)
    for path in (pipe, "/dev/zero", tmp_path, tmp_path / "nothing", "x" * 300):
        for read in (read_json, read_yaml, fields_of):
            with pytest.raises(OSError):
                read(path)
    for read, path in ((read_yaml, large), (read_json, sparse), (fields_of, sparse)):
        with pytest.raises(ValueError, match="larger than"):
            read(path)
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    for read in (read_json, fields_of):
        with pytest.raises(ValueError, match="UTF-8"):
            read(tmp_path / "bytes.json")


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
