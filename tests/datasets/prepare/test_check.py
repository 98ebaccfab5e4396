"""The report counts by a plain formula and finds whatever was broken on purpose."""

import json

import numpy as np
import pytest
from trees import SIZE, box, coco, labels, voc_and_sbd, write_photo, write_voc_mask

from piclip.datasets.prepare.check import check_folder
from piclip.datasets.prepare.coco_20i import prepare_coco
from piclip.datasets.prepare.pascal_5i import prepare_pascal
from piclip.datasets.prepared import open_coco
from piclip.errors import UsageError


@pytest.fixture
def pascal(tmp_path):
    voc, sbd = voc_and_sbd(tmp_path / "sources")
    out = tmp_path / "out"
    prepare_pascal(out, voc=voc, sbd=sbd, train_list="aug")
    return voc, out


def kinds(report):
    return [(problem.kind, problem.key) for problem in report.problems]


def test_counts_with_and_without_the_rule(pascal):
    voc, out = pascal
    big = np.full((50, 60), 7, dtype=np.uint8)  # 3000 pixels of class "car"
    write_voc_mask(out / "masks" / "2007_000003.png", big)
    write_photo(voc / "JPEGImages" / "2007_000003.jpg", big.shape)
    report = check_folder(out)
    assert report.problems == []
    data = json.loads(json.dumps(report.as_json()))
    assert data["images"] == {"train": 5, "val": 2}
    first, second = data["folds"][:2]
    assert first["classes"]["aeroplane"]["val"] == {"any_pixels": 1, "counting": 0}
    assert first["classes"]["bicycle"]["train"] == {"any_pixels": 3, "counting": 0}
    assert first["novel_images"]["train"] == {"any_pixels": 5, "counting": 0}
    assert second["classes"]["car"]["val"] == {"any_pixels": 1, "counting": 1}
    assert second["novel_images"]["val"] == {"any_pixels": 1, "counting": 1}
    assert ("1", "car", "0", "0", "1", "1") in report.rows()


def test_everything_that_is_wrong_is_found(pascal):
    voc, out = pascal
    (voc / "JPEGImages" / "2007_000001.jpg").unlink()
    (voc / "JPEGImages" / "2008_000002.jpg").write_bytes(b"no photograph")
    write_photo(voc / "JPEGImages" / "2008_000005.jpg", (SIZE[1], SIZE[0]))
    (out / "masks" / "2008_000006.png").unlink()
    write_voc_mask(out / "masks" / "2007_000003.png", labels(value=99))
    mask = out / "masks" / "2008_000004.png"
    mask.write_bytes(mask.read_bytes()[:60])
    report = check_folder(out)
    assert sorted(kinds(report)) == [
        ("mask", "2008_000004"),
        ("mask", "2008_000006"),
        ("photograph", "2007_000001"),
        ("photograph", "2008_000002"),
        ("size", "2008_000005"),
        ("values", "2007_000003"),
    ]
    assert any("99" in problem.text for problem in report.problems)
    assert any("12 x 16" in p.text and "16 x 12" in p.text for p in report.problems)


def test_a_missing_list(pascal):
    _, out = pascal
    (out / "lists" / "train.txt").unlink()
    report = check_folder(out)
    assert kinds(report) == [("list", "")]
    assert "train" in report.problems[0].text
    assert report.images == {"val": 2}


def test_folders_that_are_not_prepared(tmp_path):
    with pytest.raises(UsageError, match="no prepared folder"):
        check_folder(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        check_folder(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 1, "name": "scenes"}')
    with pytest.raises(UsageError, match="pascal-5i, coco-20i"):
        check_folder(tmp_path)


def test_coco_counts_agree_with_the_datasets_own(tmp_path):
    annotations = [box(n, category, (0, 9, 0, 9), image=n) for n, category in ((1, 1), (2, 6))]
    file = coco(tmp_path, annotations, images=2)
    prepare_coco(tmp_path / "out", images=tmp_path, annotations=[file])
    report = check_folder(tmp_path / "out")
    dataset = open_coco(tmp_path / "out")
    presence = dataset.presence("val")
    for fold in range(4):
        shown = (presence[:, dataset.novel_classes(fold)] > 0).any(axis=1).sum()
        assert report.folds[fold]["val"].any_pixels == shown
    assert kinds(report) == [("list", "")]  # only val was prepared
