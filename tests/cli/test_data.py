"""``piclip data`` from the command line: what it prints and how it leaves."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from lvis_files import make_lvis
from pascal_part_files import make_pascal_part
from trees import VOC_VAL, box, coco, voc_and_sbd

from piclip.cli import main


@pytest.fixture
def sources(tmp_path):
    voc_and_sbd(tmp_path)
    return tmp_path


def test_prepare_and_check_pascal(piclip, sources, tmp_path):
    out = tmp_path / "out"
    command = ("data", "prepare", "pascal", "--voc", sources, "--sbd", sources, "--out", out)
    ran = piclip(*command, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["images"] == {"train": 4, "val": 2}
    assert "not the published 5953" in " ".join(ran.err.split())
    assert "6 from an earlier run" in " ".join(piclip(*command).err.split())

    ran = piclip("data", "check", out)
    assert (ran.code, ran.out) == (0, "")
    assert "aeroplane" in ran.err
    assert "Nothing is missing." in ran.err
    (sources / "VOCdevkit" / "VOC2012" / "JPEGImages" / "2007_000003.jpg").unlink()
    ran = piclip("data", "check", out, "--json")
    assert ran.code == 1
    assert "2007_000003.jpg" in ran.err
    assert [problem["kind"] for problem in json.loads(ran.out)["problems"]] == ["photograph"]


def test_prepare_coco(piclip, tmp_path):
    file = coco(tmp_path, [box(1, 1, (0, 4, 0, 4))])
    command = ("data", "prepare", "coco", "--images", tmp_path, "--annotations", file)
    ran = piclip(*command, "--out", tmp_path / "out", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["images"] == {"val": 1}


def test_episodes_of_hsnets_lists(piclip, sources, tmp_path):
    out, file, splits = tmp_path / "out", tmp_path / "e.json", tmp_path / "splits"
    prepare = ("data", "prepare", "pascal", "--voc", sources, "--sbd", sources, "--out", out)
    assert piclip(*prepare).code == 0
    (splits / "pascal" / "val").mkdir(parents=True)
    pairs = "2008_000004__01\n2007_000003__01\n"
    (splits / "pascal" / "val" / "fold0.txt").write_text(pairs)
    draw = ("data", "episodes", "pascal-5i", "--root", out, "--option", "minimum_pixels=1")
    ran = piclip(*draw, "--protocol", "hsnet", "--splits", splits, "--shot", 2, "--out", file)
    assert ran.code == 0
    assert "1000 episodes of pascal-5i, fold 0, 2-shot, protocol hsnet" in " ".join(ran.err.split())
    first, second = VOC_VAL[::-1]
    rows = [[0, first, second, second], [0, second, first, first]]
    assert json.loads(file.read_text())["episodes"] == rows * 500
    ran = piclip(*draw, "--protocol", "hsnet", "--splits", tmp_path, "--out", file)
    assert (ran.code, "holds no pascal/val/fold0.txt" in ran.sentence) == (1, True)


@pytest.mark.parametrize(
    ("name", "make", "classes"),
    [
        ("lvis-92i", make_lvis, {"thing_8_(food)", "thing_18_(food)"}),
        ("pascal-part", make_pascal_part, {"person+HEAD", "person+LOWER_ARM"}),
    ],
)
def test_overlapping_classes_are_drawn_and_evaluated(piclip, tmp_path, name, make, classes):
    make(tmp_path)
    file, where = tmp_path / "e.json", ("--root", tmp_path, "--fold", 2)
    ran = piclip("data", "episodes", name, *where, "--episodes", 6, "--out", file)
    assert ran.code == 0
    assert f"6 episodes of {name}, fold 2, 1-shot" in " ".join(ran.err.split())
    asked = ("--model", "builtin", "--device", "cpu", "--episodes-file", file, "--json")
    ran = piclip("evaluate", "training-free", "--dataset", name, *where, *asked)
    assert ran.code == 0
    counts = json.loads(ran.out)["per_seed"][0]["counts"]
    assert counts.keys() == classes


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prepare", "pascal", "--voc", "nowhere", "--sbd", "x", "--out", "o"), 2, "no folder of"),
        (("prepare", "coco", "--images", "x", "--annotations", "val.json", "--out", "o"), 1, "val"),
        (("download", "imagenet", "--out", "o"), 2, "pascal, coco"),
        (("check", "nowhere"), 2, "no prepared folder"),
        (("episodes", "scenes", "--protocol", "x", "--out", "o"), 2, "ours, pfenet, hsnet"),
        (
            (
                "episodes",
                "scenes",
                "--option",
                "val_images=40",
                "--protocol",
                "hsnet",
                "--out",
                "o",
            ),
            2,
            "is for pascal-5i",
        ),
        (("episodes", "scenes", "--splits", "s", "--out", "o"), 2, "needs no split files"),
    ],
)
def test_what_is_wrong_ends_in_one_sentence(piclip, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    ran = piclip("data", *arguments)
    assert ran.code == code
    assert words in ran.sentence
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_command(capsys):
    assert main(["data", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("prepare", "download", "check", "episodes"))
