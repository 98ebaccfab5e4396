"""Written image by image, labels are what they are when written at once."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from piclip.annotation import export
from piclip.annotation.export import check_destination, write_files, write_review
from piclip.annotation.sinks import Proposal
from piclip.errors import UsageError
from piclip.formats import FORMATS, LabelledFile, Labels, Region, RunLengthMask, write_labels

NAMES = ("cat", "big dog", "owl")


def labels_of(count):
    """Images of random sizes with none to three random regions."""
    generator = np.random.default_rng(5)
    files = []
    for number in range(count):
        size = tuple(int(n) for n in generator.integers(4, 9, 2))
        regions = []
        for _ in range(number % 4):
            mask = generator.random(size) < 0.4
            mask[1, 2] = True
            score = round(float(generator.random()), 4)
            name = NAMES[generator.integers(2)]
            regions.append(Region(name, RunLengthMask.from_array(mask), score=score))
        files.append(LabelledFile(f"in/ö{number}.png", *size, tuple(regions)))
    return Labels(NAMES, tuple(files), (7, 3, 9))


def content(path):
    """Of one JSON file its value, of a folder every file's bytes."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("format", FORMATS)
def test_one_by_one_is_as_at_once(tmp_path, monkeypatch, format, count):
    monkeypatch.setattr(export, "_AT_ONCE", 4)
    labels = labels_of(count)
    suffix = ".json" if format in export.ONE_FILE else ""
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    write_files(lambda: iter(labels.images), labels, one, format)
    if count or suffix:
        write_labels(labels, other, format=format)
        assert content(one) == content(other)


@pytest.mark.parametrize("format", sorted(FORMATS.keys() - export.ONE_FILE))
def test_the_images_of_a_folder_are_gone_through_once(tmp_path, format):
    labels, calls = labels_of(5), []

    def files():
        calls.append(format)
        return iter(labels.images)

    write_files(files, labels, tmp_path, format)
    assert calls == [format]


def test_label_studio_finds_new_images_beside_its_tasks(tmp_path):
    labels = labels_of(2)
    at = "/data/local-files/?d=photos/"
    known = replace(labels, images=(replace(labels.images[0], source=f"{at}in/%C3%B60.png"),))
    write_files(lambda: iter(labels.images[1:]), known, tmp_path / "out.json", "labelstudio")
    assert content(tmp_path / "out.json")[0]["data"] == {"image": f"{at}in/%C3%B61.png"}


def test_images_keep_their_numbers_and_new_ones_come_after(tmp_path):
    labels = labels_of(4)
    known = replace(labels, images=(replace(labels.images[3], id=40), labels.images[0]))
    found = [labels.images[1], known.images[0], labels.images[2]]
    write_files(lambda: iter(found), known, tmp_path / "out.json", "coco")
    written = content(tmp_path / "out.json")
    assert [image["id"] for image in written["images"]] == [41, 40, 42]
    assert [a["image_id"] for a in written["annotations"]] == [41] + [40] * 3 + [42] * 2
    assert [a["id"] for a in written["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert [c["id"] for c in written["categories"]] == [7, 3, 9]


def test_masks_of_an_earlier_run_that_are_gone_are_removed(tmp_path):
    labels = labels_of(4)
    write_files(lambda: iter(labels.images), labels, tmp_path, "masks")
    (tmp_path / "cat/in/other.png").write_bytes(b"of somebody else")
    fewer = [replace(file, regions=file.regions[:1]) for file in labels.images]
    write_files(lambda: iter(fewer), labels, tmp_path, "masks")
    kept = {f"{file.regions[0].class_name}/{file.path}" for file in fewer if file.regions}
    assert set(content(tmp_path)) == kept | {"cat/in/other.png"}


@pytest.mark.parametrize(
    ("destination", "format", "paths", "sentence"),
    [
        ("folder", "coco", ["a.png"], "is a folder, but coco is one file"),
        ("file", "yolo", ["a.png"], "is a file, but yolo is a folder"),
        ("new.json", "masks", ["a.png"], "--output-format coco"),
        ("new", "labelme", ["x/a.png", "x/a.jpg"], "Two images are called x/a"),
        ("folder", "voc", ["a.png"], "holds the images themselves"),
        (".", "masks", ["a.png"], "holds the images themselves"),
        ("o.json", "labelstudio", ["a.png", "b\udcff.png"], "rename the file"),
    ],
)
def test_destinations_that_do_not_fit_are_refused(tmp_path, destination, format, paths, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    files = [tmp_path / "folder" / path for path in paths]
    with pytest.raises(UsageError, match=sentence):
        check_destination(tmp_path / destination, format, paths, files)


@pytest.mark.parametrize(
    ("destination", "format"), [("a.json", "coco"), ("new", "voc"), ("photos", "labelme")]
)
def test_destinations_that_fit_are_taken(tmp_path, destination, format):
    (tmp_path / "photos").mkdir()
    paths = ["a.png", "in/a.png"]
    files = [tmp_path / "photos" / path for path in paths]
    assert check_destination(tmp_path / destination, format, paths, files) is None


def test_the_review_begins_with_the_least_certain(tmp_path):
    mask = RunLengthMask.from_array(np.ones((2, 3), dtype=np.bool_))

    def proposal(path, certainty, *scores):
        regions = tuple(Region("cat", mask, score=score) for score in scores)
        return Proposal(LabelledFile(path, 2, 3, regions), certainty)

    rows = [proposal("b", 0.5, 0.7, 0.61), proposal("c", 0.125, 0.5), proposal('a, "x"', 0.5)]
    write_review(rows, tmp_path / "review.csv")
    with (tmp_path / "review.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"image": "c", "certainty": "0.1250", "regions": "1", "lowest_score": "0.5000"},
            {"image": 'a, "x"', "certainty": "0.5000", "regions": "0", "lowest_score": ""},
            {"image": "b", "certainty": "0.5000", "regions": "2", "lowest_score": "0.6100"},
        ]
