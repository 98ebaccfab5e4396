"""Outputs are there in full or not at all, and failures end in one sentence."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piclip.errors import OutputError, UsageError
from piclip.io.outputs import atomic_path, ensure_folder, write_json, write_png
from sentences import one_sentence


def fail_with(number):
    def failing(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return failing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_atomic_path_renames_on_success(tmp_path):
    target = tmp_path / "new folder" / "a.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        assert not temporary.exists()
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.txt"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interrupt_leaves_the_old_file_and_no_temporary_one(tmp_path, interruption):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(interruption), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise interruption
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "disk is full; free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only; choose another folder"),
        (errno.EACCES, "permission is denied; choose a folder"),
        (errno.EPERM, "permission is denied; choose a folder"),
        (errno.EIO, "try another folder"),
    ],
)
@pytest.mark.parametrize(
    "where", ["pathlib.Path.replace", "pathlib.Path.write_bytes", "pathlib.Path.mkdir"]
)
def test_a_failing_disk_ends_in_one_sentence(tmp_path, monkeypatch, number, advice, where):
    target = tmp_path / "a.png"
    target.write_text("old")
    monkeypatch.setattr(where, fail_with(number))
    with pytest.raises(OutputError, match=advice) as error:
        write_png(np.ones((4, 4), bool), target)
    assert str(tmp_path) in one_sentence(error)
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.png"]


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="full"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="permission"):
        ensure_folder(tmp_path)


def test_things_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file is where a folder should be"):
        ensure_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a file is where a folder should be"):
        write_json({}, tmp_path / "file" / "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder is where the file should be"):
        write_json({}, tmp_path / "folder")
    with pytest.raises(OutputError, match="a device"):
        write_json({}, "/dev/null")
    with pytest.raises(OutputError, match="too long"):
        write_json({}, tmp_path / ("x" * 300))
    assert names(tmp_path) == ["file", "folder"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "a.json")
    write_json([1], tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there" / "a.json").read_text()) == [1]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_json([1], tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_ensure_folder_makes_parents_and_may_be_called_again(tmp_path):
    folder = tmp_path / "a b" / "ж"
    assert ensure_folder(str(folder)) == folder
    assert ensure_folder(folder).is_dir()


def test_write_png(tmp_path):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert write_png(mask, str(tmp_path / "m.png")) == tmp_path / "m.png"
    with Image.open(tmp_path / "m.png") as file:
        assert (file.format, file.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(file), mask * 255)
    for shape in ((7, 5), (7, 5, 3)):
        values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        write_png(values[:, ::-1], tmp_path / "v.png")
        with Image.open(tmp_path / "v.png") as file:
            np.testing.assert_array_equal(np.asarray(file), values[:, ::-1])
    palette = Image.fromarray(mask.astype(np.uint8), "L").convert("P")
    palette.putpalette([1, 2, 3, 4, 5, 6])
    write_png(palette, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as file:
        assert file.mode == "P"
        assert file.getpalette()[:6] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_array_equal(np.asarray(file), mask)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 3)),
        np.zeros((3, 3, 4), np.uint8),
        np.zeros(3, bool),
        np.zeros((0, 3), np.uint8),
    ],
)
def test_other_arrays_are_no_png(tmp_path, array):
    with pytest.raises(UsageError):
        write_png(array, tmp_path / "a.png")
    assert names(tmp_path) == []


def test_write_json(tmp_path):
    value = {
        "name": "зебра",
        "iou": np.float32(0.5),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "list": np.arange(3),
        "path": Path("a/b"),
    }
    write_json(value, tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "зебра" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "name": "зебра",
        "iou": 0.5,
        "count": 3,
        "flag": True,
        "list": [0, 1, 2],
        "path": "a/b",
    }


def test_file_names_that_are_no_utf8_survive_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_json([name], tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == [name]


@pytest.mark.parametrize("value", [float("nan"), np.float64("inf"), {1, 2}, b"x", object()])
def test_what_json_has_no_form_for(tmp_path, value):
    with pytest.raises(UsageError, match=r"a\.json"):
        write_json({"value": value}, tmp_path / "a.json")
    assert names(tmp_path) == []
