"""``piclip annotate``: what it writes, what it refuses, and that a second run goes on."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import piclip as library
from piclip.annotation.certainty import certainty_of
from piclip.datasets.scenes import make_scene
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask, read_labels, write_labels

COUNT = 6


@pytest.fixture
def predicted(monkeypatch):
    """How many images each call of predict was given."""
    counts = []
    predict = library.FewShotSegmenter.predict

    def counting(self, images, **options):
        counts.append(len(images))
        return predict(self, images, **options)

    monkeypatch.setattr(library.FewShotSegmenter, "predict", counting)
    return counts


@pytest.fixture
def folder(tmp_path):
    """Six photos of cats; in the first two cats are labelled, in the second also its sky."""
    photos = tmp_path / "photos"
    photos.mkdir()
    files = []
    for number in range(COUNT):
        scene = make_scene(32, number, include="cat")
        Image.fromarray(scene.image).save(photos / f"photo{number}.png")
        regions = [Region("cat", RunLengthMask.from_array(scene.mask("cat")))]
        if number == 1:
            sky = np.zeros((128, 128), dtype=np.bool_)
            sky[:20] = ~scene.mask("cat")[:20]
            regions.append(Region("sky", RunLengthMask.from_array(sky)))
        shown = tuple(regions) if number < 2 else ()
        files.append(LabelledFile(f"photo{number}.png", 128, 128, shown, id=100 + number))
    labels = Labels(("sky", "cat"), tuple(files), (5, 3))
    write_labels(labels, tmp_path / "labels.json", format="coco")
    return tmp_path


@pytest.fixture
def annotate(piclip, folder, model):
    """Run the command on the folder; options given again replace the usual ones."""

    def run(*more, output="out.json", labels="labels.json"):
        target = () if output is None else ("--output", folder / output)
        return piclip(
            *("annotate", "--images", folder / "photos", "--labels", folder / labels, *target),
            *("--model", model, "--device", "cpu", "--dtype", "float32", *more),
        )

    return run


@pytest.fixture
def by_hand(folder, model):
    """What the library predicts for the four photos without a label."""
    segmenter = library.FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")
    labels = read_labels(folder / "labels.json")
    segmenter.fit(labels.supports(folder / "photos"))
    return segmenter.predict(labels.unlabelled(folder / "photos"))


def coco(folder, name="out.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def by_path(labels):
    return {file.path: file for file in labels.images}


def test_unlabelled_images_get_what_the_library_predicts(annotate, folder, by_hand):
    ran = annotate("--json")
    assert ran.code == 0
    assert coco(folder)["categories"] == coco(folder, "labels.json")["categories"]
    assert [(i["id"], i["file_name"]) for i in coco(folder)["images"]] == [
        (100 + number, f"photo{number}.png") for number in range(2, COUNT)
    ]
    found = by_path(read_labels(folder / "out.json"))
    regions = dict.fromkeys(("sky", "cat"), 0)
    for segmentation in by_hand:
        file = found[f"{segmentation.name}.png"]
        for index, name in enumerate(segmentation.class_names):
            np.testing.assert_array_equal(file.mask_of(name), segmentation.mask_of(name))
            for region in file.regions:
                if region.class_name == name:
                    mean = segmentation.scores[index][region.mask.to_array()].mean()
                    assert region.score == pytest.approx(mean, abs=1e-4)
                    regions[name] += 1
    assert sum(regions.values()) > 0
    summary = json.loads(ran.out)
    assert (summary["annotated"], summary["earlier"], summary["failed"]) == (4, 0, [])
    assert summary["regions"] == regions
    assert f"4 of 4 images annotated, {sum(regions.values())} regions" in ran.err


def test_ctrl_c_keeps_what_is_done_and_the_next_run_ends_as_if_nothing_was(
    annotate, folder, monkeypatch, predicted
):
    assert annotate(output="whole.json").code == 0
    predicted.clear()
    counting = library.FewShotSegmenter.predict

    def interrupted(self, images, **options):
        if len(predicted) == 2:
            raise KeyboardInterrupt
        return counting(self, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(library.FewShotSegmenter, "predict", interrupted)
        ran = annotate("--batch-size", 1)
    assert ran.code == 1
    assert "Stopped with 2 of 4 images done; run the same command again" in ran.sentence
    assert not (folder / "out.json").exists()
    predicted.clear()
    ran = annotate("--batch-size", 1)
    assert (ran.code, predicted) == (0, [1, 1])
    assert "4 of 4 images annotated (2 from an earlier run)" in ran.err
    assert (folder / "out.json").read_bytes() == (folder / "whole.json").read_bytes()


def test_a_second_run_computes_only_what_is_new_or_changed(annotate, folder, predicted):
    annotate()
    predicted.clear()
    assert annotate().code == 0
    assert predicted == []
    Image.fromarray(make_scene(33, 0).image).save(folder / "photos" / "photo3.png")
    Image.fromarray(make_scene(33, 1).image).save(folder / "photos" / "photo9.png")
    assert annotate().code == 0
    assert sum(predicted) == 2
    assert [image["id"] for image in coco(folder)["images"]] == [102, 103, 104, 105, 106]


@pytest.mark.parametrize("change", ["threshold", "labels"])
def test_other_settings_are_not_mixed_into_old_results(annotate, folder, change):
    annotate()
    before = (folder / "out.json").read_bytes()
    options = ["--threshold", "0.5"] if change == "threshold" else []
    if change == "labels":
        labels = read_labels(folder / "labels.json")
        fewer = (labels.images[0], *labels.images[2:])
        write_labels(Labels(("cat",), fewer), folder / "labels.json", format="coco")
    ran = annotate(*options)
    assert ran.code == 2
    assert f"other settings ({change})" in ran.sentence
    assert "--overwrite" in ran.sentence
    assert (folder / "out.json").read_bytes() == before
    assert annotate(*options, "--overwrite").code == 0


def test_form_and_least_score_may_change_without_computing_again(annotate, folder, predicted):
    annotate()
    regions = {f.path: f.regions for f in read_labels(folder / "out.json").images}
    scores = sorted(region.score for kept in regions.values() for region in kept)
    least = scores[len(scores) // 2]
    predicted.clear()
    ran = annotate("--min-score", least, "--with-labels", "--review", folder / "review.csv")
    assert (ran.code, predicted) == (0, [])
    found = by_path(read_labels(folder / "out.json"))
    for path, before in regions.items():
        assert found[path].regions == tuple(r for r in before if r.score >= least)
    given = by_path(read_labels(folder / "labels.json"))
    assert list(found)[:2] == ["photo0.png", "photo1.png"]
    for path in list(found)[:2]:
        assert found[path] == given[path]


def test_the_review_begins_with_the_least_certain_image(annotate, folder, by_hand, model):
    threshold = 0.45
    assert annotate("--threshold", threshold, "--review", folder / "review.csv").code == 0
    with (folder / "review.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    certainties = {f"{s.name}.png": certainty_of(s.score, threshold) for s in by_hand}
    assert [row["image"] for row in rows] == sorted(certainties, key=certainties.__getitem__)
    for row in rows:
        assert float(row["certainty"]) == pytest.approx(certainties[row["image"]], abs=1e-4)


def test_a_corrupt_image_is_skipped_told_and_tried_again(annotate, folder):
    broken = folder / "photos" / "photo3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (folder / "photos" / "photo5.png").unlink()
    ran = annotate("--json")
    assert ran.code == 1
    assert "2 of 4 images failed" in ran.err
    assert "photo3.png: the image is truncated or damaged" in ran.err
    assert "photo5.png: the labels list this image, but it is not here" in ran.err
    assert "2 of 4 images annotated" in ran.err
    assert [f["image"] for f in json.loads(ran.out)["failed"]] == ["photo5.png", "photo3.png"]
    assert [i["file_name"] for i in coco(folder)["images"]] == ["photo2.png", "photo4.png"]
    broken.write_bytes(whole)
    Image.new("RGB", (64, 128)).save(folder / "photos" / "photo5.png")
    ran = annotate()
    assert ran.code == 1
    assert "1 of 4 images failed" in ran.err
    assert "the image is 64 x 128 pixels (width x height) but the labels say 128 x 128" in ran.err


def test_holdout_measures_without_writing(annotate, folder, predicted):
    before = sorted(folder.iterdir())
    ran = annotate("--holdout", "--json", output=None)
    assert ran.code == 0
    sky, cat = json.loads(ran.out)["holdout"]
    assert (sky["class"], sky["labelled"], sky["iou"]) == ("sky", 1, None)
    assert (cat["class"], cat["labelled"]) == ("cat", 2)
    assert set(cat["images"]) == {"photo0.png", "photo1.png"}
    assert f"{cat['iou']:.1f} %" in ran.err
    assert "label 2 images" in ran.err
    assert predicted == [1, 1]
    assert sorted(folder.iterdir()) == before


def test_holdout_before_annotating(annotate, predicted):
    ran = annotate("--holdout")
    assert (ran.code, predicted) == (0, [1, 1, 4])
    assert ran.err.index("IoU to expect") < ran.err.index("4 of 4 images annotated")


@pytest.mark.parametrize(
    ("format", "target"),
    [
        ("label-studio", "out.json"),
        ("labelme", "out"),
        ("yolo", "out"),
        ("voc", "out"),
        ("masks", "out"),
    ],
)
def test_every_format_in_and_out(annotate, folder, format, target):
    assert annotate().code == 0
    assert annotate("--output-format", format, output=f"plain{target}").code == 0
    regions = read_labels(folder / "out.json").labelled
    if format != "label-studio":  # its predictions are no labels
        written = by_path(read_labels(folder / f"plain{target}", images=folder / "photos"))
        for file in regions:
            for name in file.class_names:
                np.testing.assert_array_equal(written[file.path].mask_of(name), file.mask_of(name))
    else:
        tasks = json.loads((folder / f"plain{target}").read_text(encoding="utf-8"))
        assert [task["id"] for task in tasks] == [102, 103, 104, 105]
        found = [len(task["predictions"][0]["result"]) for task in tasks if "predictions" in task]
        assert found == [len(file.regions) for file in regions]


def test_labels_of_another_format_teach_the_same(annotate, folder):
    labels = read_labels(folder / "labels.json")
    shown = Labels(labels.class_names, labels.labelled)
    write_labels(shown, folder / "masks", format="masks")
    assert annotate().code == 0
    options = ("--format", "masks", "--name", "sky", "--name", "cat", "--output-format", "coco")
    assert annotate(*options, labels="masks", output="other.json").code == 0
    one, other = (by_path(read_labels(folder / name)) for name in ("out.json", "other.json"))
    assert {path: file.regions for path, file in one.items()} == {
        path: file.regions for path, file in other.items()
    }


def test_everything_labelled_and_nothing_labelled(annotate, folder):
    labels = read_labels(folder / "labels.json")
    for number in range(2, COUNT):
        (folder / "photos" / f"photo{number}.png").unlink()
    write_labels(Labels(("cat",), ()), folder / "none.json", format="coco")
    ran = annotate(labels="none.json")
    assert (ran.code, "None of the images is labelled" in ran.sentence) == (2, True)
    write_labels(Labels(labels.class_names, labels.labelled), folder / "all.json", format="coco")
    ran = annotate(labels="all.json")
    assert (ran.code, "Every image is labelled" in ran.sentence) == (2, True)


@pytest.mark.parametrize(
    ("options", "output", "sentence"),
    [
        ((), None, "give --output, --holdout or both"),
        (("--holdout", "--review", "x.csv"), None, "A --review needs an --output"),
        ((), "labels.json", "must be different files"),
        ((), "theirs.json", "no run of piclip annotate has made it"),
        (("--output-format", "tiff"), "out.json", "There is no label format 'tiff'"),
        (("--format", "yolo"), "out", "labels.json: there is no such folder"),
        (("--output-format", "voc"), "photos", "holds the images themselves"),
    ],
)
def test_what_cannot_be_done_is_refused(annotate, folder, options, output, sentence):
    (folder / "theirs.json").write_text("{}", encoding="utf-8")
    ran = annotate(*options, output=output)
    assert ran.code == 2
    assert sentence in ran.sentence
    assert (folder / "theirs.json").read_text(encoding="utf-8") == "{}"


def test_a_missing_labelled_image_ends_the_run(annotate, folder):
    (folder / "photos" / "photo1.png").unlink()
    ran = annotate()
    assert ran.code == 1
    assert "photo1.png" in ran.sentence
