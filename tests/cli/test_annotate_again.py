"""``piclip annotate`` run again: it goes on where the first run stopped."""

import json

import pytest
from PIL import Image

from piclip.datasets.scenes import make_scene
from piclip.formats import Labels, write_labels
from piclip.formats.cleaning import Cleaning
from piclip.training_free.scorer import TrainingFreeScorer


def test_ctrl_c_keeps_what_is_done_and_the_next_run_ends_as_if_nothing_was(
    annotate, album, monkeypatch, predicted
):
    assert annotate(output="whole.json").code == 0
    predicted.clear()
    counting = TrainingFreeScorer.score

    def interrupted(self, images, **options):
        if len(predicted) == 2:
            raise KeyboardInterrupt
        return counting(self, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFreeScorer, "score", interrupted)
        ran = annotate("--batch-size", 1)
    assert ran.code == 1
    assert "Stopped with 2 of 4 images done; run the same command again" in ran.sentence
    assert not (album.folder / "out.json").exists()
    predicted.clear()
    ran = annotate("--batch-size", 1)
    assert (ran.code, predicted) == (0, [1, 1])
    assert "4 of 4 images annotated (2 from an earlier run)" in ran.err
    assert (album.folder / "out.json").read_bytes() == (album.folder / "whole.json").read_bytes()


def test_a_second_run_computes_only_what_is_new_or_changed(annotate, album, predicted):
    annotate()
    predicted.clear()
    assert annotate().code == 0
    assert predicted == []
    Image.fromarray(make_scene(33, 0).image).save(album.photos / "photo3.png")
    Image.fromarray(make_scene(33, 1).image).save(album.photos / "photo9.png")
    assert annotate().code == 0
    assert sum(predicted) == 2
    assert [image["id"] for image in album.json()["images"]] == [102, 103, 104, 105, 106]


@pytest.mark.parametrize("change", ["threshold", "labels"])
def test_other_settings_are_not_mixed_into_old_results(annotate, album, change):
    annotate()
    before = (album.folder / "out.json").read_bytes()
    options = ["--threshold", "0.5"] if change == "threshold" else []
    if change == "labels":
        labels = album.labels()
        fewer = (labels.images[0], *labels.images[2:])
        write_labels(Labels(("cat",), fewer), album.folder / "labels.json", format="coco")
    ran = annotate(*options)
    assert ran.code == 2
    assert f"other settings ({change})" in ran.sentence
    assert "--overwrite" in ran.sentence
    assert (album.folder / "out.json").read_bytes() == before
    assert annotate(*options, "--overwrite").code == 0


def test_what_is_cleaned_away_may_change_without_computing_again(annotate, album, predicted):
    annotate("--min-area", 0)
    files = album.by_path()
    areas = sorted(region.mask.area for file in files.values() for region in file.regions)
    least = areas[len(areas) // 2] + 1
    predicted.clear()
    assert annotate("--min-area", least).code == 0
    for path, file in album.by_path().items():
        assert file.regions == tuple(r for r in files[path].regions if r.mask.area >= least)
    options = ("--min-area", "0.1%", "--largest", "--fill-holes")
    assert annotate(*options).code == 0
    assert predicted == []
    cleaning = Cleaning("0.1%", largest=True, fill_holes=True)
    for path, file in album.by_path().items():
        assert file.regions == cleaning.regions(files[path]).regions


def test_outlines_may_be_simplified_without_computing_again(annotate, album, predicted):
    def size():
        return sum(file.stat().st_size for file in (album.folder / "yolo" / "labels").iterdir())

    annotate("--output-format", "yolo", output="yolo")
    before = size()
    predicted.clear()
    annotate("--output-format", "yolo", "--simplify", 2, output="yolo")
    assert predicted == []
    assert size() < before
    ran = annotate("--simplify", 2, "--output-format", "voc", output="voc")
    assert (ran.code, "has pixels and no outlines" in ran.sentence) == (2, True)


def test_form_and_least_score_may_change_without_computing_again(annotate, album, predicted):
    annotate()
    regions = {f.path: f.regions for f in album.labels("out.json").images}
    scores = sorted(region.score for kept in regions.values() for region in kept)
    least = scores[len(scores) // 2]
    predicted.clear()
    ran = annotate("--min-score", least, "--with-labels", "--review", album.folder / "review.csv")
    assert (ran.code, predicted) == (0, [])
    found = album.by_path()
    for path, before in regions.items():
        assert found[path].regions == tuple(r for r in before if r.score >= least)
    given = album.by_path("labels.json")
    assert list(found)[:2] == ["photo0.png", "photo1.png"]
    for path in list(found)[:2]:
        assert found[path] == given[path]


def test_a_corrupt_image_is_skipped_told_and_tried_again(annotate, album):
    broken = album.photos / "photo3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (album.photos / "photo5.png").unlink()
    ran = annotate("--json")
    assert ran.code == 1
    assert "1 of 3 images failed" in ran.err
    assert "photo3.png: the image is truncated or damaged" in ran.err
    assert "2 of 3 images annotated" in ran.err
    assert [f["image"] for f in json.loads(ran.out)["failed"]] == ["photo3.png"]
    assert json.loads(ran.out)["missing"] == ["photo5.png"]
    assert [i["file_name"] for i in album.json()["images"]] == ["photo2.png", "photo4.png"]
    broken.write_bytes(whole)
    Image.new("RGB", (64, 128)).save(album.photos / "photo5.png")
    ran = annotate()
    assert ran.code == 1
    assert "1 of 4 images failed" in ran.err
    assert "the image is 64 x 128 pixels (width x height) but the labels say 128 x 128" in ran.err


def test_an_image_that_vanishes_meanwhile_is_listed(album, annotate, monkeypatch):
    score = TrainingFreeScorer.score

    def slow(self, images, **options):
        (album.photos / "photo3.png").unlink(missing_ok=True)
        return score(self, images, **options)

    monkeypatch.setattr(TrainingFreeScorer, "score", slow)
    ran = annotate("--json")
    assert ran.code == 1
    assert [f["image"] for f in json.loads(ran.out)["failed"]] == ["photo3.png"]
    assert len(album.json()["images"]) == 3
