"""``piclip annotate``: what it writes, and what it refuses."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from piclip import FewShotSegmenter
from piclip.annotation.sinks import certainty_of
from piclip.formats import Labels, write_labels
from tiff_files import write_tiff


@pytest.fixture
def by_hand(album, model):
    """What the library predicts for the four photos without a label."""
    segmenter = FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")
    labels = album.labels()
    segmenter.fit(labels.supports(album.photos))
    return segmenter.predict(labels.unlabelled(album.photos))


def test_unlabelled_images_get_what_the_library_predicts(annotate, album, by_hand):
    ran = annotate("--json", "--min-area", 0)
    assert ran.code == 0
    assert album.json()["categories"] == album.json("labels.json")["categories"]
    assert [(i["id"], i["file_name"]) for i in album.json()["images"]] == [
        (100 + number, f"photo{number}.png") for number in range(2, 6)
    ]
    found = album.by_path()
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


@pytest.mark.parametrize("more", [(), ("--engine", "local")])
def test_bands_of_a_tiff_are_chosen_for_labelled_images_and_others(annotate, album, more):
    assert annotate("--json", "--min-score", 0).code == 0
    known = {path: file.regions for path, file in album.by_path().items()}
    for path in sorted(album.photos.iterdir()):
        write_tiff(path, np.asarray(Image.open(path))[:, :, [1, 2, 0, 0, 0]])
    ran = annotate("--overwrite", *more)
    assert (ran.code, "5 bands, and which of them" in ran.sentence) == (2, True)
    assert annotate("--overwrite", "--bands", "3,1,2", *more).code == 0
    assert {path: file.regions for path, file in album.by_path().items()} == known


def test_the_review_begins_with_the_least_certain_image(annotate, album, by_hand, model):
    threshold = 0.45
    assert annotate("--threshold", threshold, "--review", album.folder / "review.csv").code == 0
    with (album.folder / "review.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    certainties = {f"{s.name}.png": certainty_of(s.at_threshold(threshold)) for s in by_hand}
    assert [row["image"] for row in rows] == sorted(certainties, key=certainties.__getitem__)
    for row in rows:
        assert float(row["certainty"]) == pytest.approx(certainties[row["image"]], abs=1e-4)


def test_holdout_measures_without_writing(annotate, album, predicted):
    before = sorted(album.folder.iterdir())
    ran = annotate("--holdout", "--json", output=None)
    assert ran.code == 0
    sky, cat = json.loads(ran.out)["holdout"]
    assert (sky["class"], sky["labelled"], sky["iou"]) == ("sky", 1, None)
    assert (cat["class"], cat["labelled"]) == ("cat", 2)
    assert set(cat["images"]) == {"photo0.png", "photo1.png"}
    assert f"{cat['iou']:.1f} %" in ran.err
    assert "label 2 images" in ran.err
    assert predicted == [1, 1]
    assert sorted(album.folder.iterdir()) == before


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
def test_every_format_in_and_out(annotate, album, format, target):
    assert annotate().code == 0
    assert annotate("--output-format", format, output=f"plain{target}").code == 0
    regions = album.labels("out.json").labelled
    if format != "label-studio":  # its predictions are no labels
        written = album.by_path(f"plain{target}")
        for file in regions:
            for name in file.class_names:
                np.testing.assert_array_equal(written[file.path].mask_of(name), file.mask_of(name))
    else:
        tasks = album.json(f"plain{target}")
        assert [task["id"] for task in tasks] == [102, 103, 104, 105]
        found = [len(task["predictions"][0]["result"]) for task in tasks if "predictions" in task]
        assert found == [len(file.regions) for file in regions]


def test_images_listed_without_a_label_may_be_negatives(annotate, album, model):
    labels = album.labels()
    gone = replace(labels.images[2], path="gone.png", id=999)
    listed = replace(labels, images=(*labels.images[:4], gone))
    write_labels(listed, album.folder / "some.json", format="coco")
    options = ("--min-area", 0, "--empty-as-negatives")
    ran = annotate(*options, "--json", labels="some.json")
    assert ran.code == 0
    summary = json.loads(ran.out)
    assert (summary["missing"], summary["annotated"]) == (["gone.png"], 2)
    segmenter = FewShotSegmenter.from_pretrained(model, device="cpu", dtype="float32")
    photos = [album.photos / f"photo{number}.png" for number in range(6)]
    segmenter.fit(labels.supports(album.photos), negatives=photos[2:4])
    found = album.by_path()
    for result in segmenter.predict(photos[4:]):
        file = found[f"{result.name}.png"]
        for name in result.class_names:
            np.testing.assert_array_equal(file.mask_of(name), result.mask_of(name))
    write_labels(listed, album.folder / "tasks.json", format="labelstudio")
    ran = annotate(*options, labels="tasks.json", output="other.json")
    assert (ran.code, "submitted empty" in ran.sentence) == (2, True)


def test_labelme_files_lie_beside_the_images_where_their_folder_is_the_output(annotate, album):
    labels = album.labels()
    write_labels(Labels(labels.class_names, labels.images[:3]), album.photos, format="labelme")
    unlabelled = album.photos / "photo2.json"
    point = {"label": "nose", "shape_type": "point", "points": [[3, 4]], "attributes": {"a": 1}}
    kept = {"flags": {"night": True}, "checked": True, "shapes": [point]}
    unlabelled.write_text(json.dumps(album.json("photos/photo2.json") | kept, indent=2))
    given = (album.photos / "photo0.json").read_bytes()
    options = {"labels": "photos", "output": "photos"}
    ran = annotate("--with-labels", **options)
    assert (ran.code, "holds the labels already" in ran.sentence) == (2, True)
    assert annotate(**options).code == 0
    found = album.json("photos/photo2.json")
    assert {key: found[key] for key in ("flags", "checked")} == {
        "flags": {"night": True},
        "checked": True,
    }
    assert found["shapes"][0] == point
    assert sorted(path.stem for path in album.photos.glob("*.json")) == [
        f"photo{number}" for number in range(6)
    ]
    assert (album.photos / "photo0.json").read_bytes() == given
    [shape, *_] = album.json("photos/photo3.json")["shapes"]
    assert shape["description"].startswith("presence ")


def test_labelme_files_of_somebody_else_are_not_written_over(annotate, album):
    theirs = album.photos / "photo4.json"
    theirs.write_text("{}")
    options = ("--output-format", "labelme")
    ran = annotate(*options, output="photos")
    assert (ran.code, "no run of piclip annotate has made it" in ran.sentence) == (2, True)
    assert theirs.read_text() == "{}"
    theirs.unlink()
    assert annotate(*options, output="photos").code == 0
    assert annotate(*options, output="photos").code == 0
    corrected = json.dumps(album.json("photos/photo4.json") | {"shapes": []}, indent=2)
    theirs.write_text(corrected)  # as labelme saves it
    ran = annotate(*options, output="photos")
    assert (ran.code, "photo4.json was changed since it was written" in ran.sentence) == (2, True)
    assert theirs.read_text() == corrected


def test_labels_of_another_format_teach_the_same(annotate, album):
    labels = album.labels()
    shown = Labels(labels.class_names, labels.labelled)
    write_labels(shown, album.folder / "masks", format="masks")
    assert annotate().code == 0
    options = ("--format", "masks", "--name", "sky", "--name", "cat", "--output-format", "coco")
    assert annotate(*options, labels="masks", output="other.json").code == 0
    one, other = (album.by_path(name) for name in ("out.json", "other.json"))
    assert {path: file.regions for path, file in one.items()} == {
        path: file.regions for path, file in other.items()
    }


def test_everything_labelled_and_nothing_labelled(annotate, album):
    labels = album.labels()
    for number in range(2, 6):
        (album.photos / f"photo{number}.png").unlink()
    write_labels(Labels(("cat",), ()), album.folder / "none.json", format="coco")
    ran = annotate(labels="none.json")
    assert (ran.code, "None of the images is labelled" in ran.sentence) == (2, True)
    every = Labels(labels.class_names, labels.labelled)
    write_labels(every, album.folder / "all.json", format="coco")
    ran = annotate(labels="all.json")
    assert (ran.code, "Every image is labelled" in ran.sentence) == (2, True)


@pytest.mark.parametrize(
    ("options", "output", "sentence"),
    [
        ((), None, "give --output, --holdout or both"),
        (("--holdout", "--review", "x.csv"), None, "A --review needs an --output"),
        ((), "labels.json", "must be different files"),
        (("--review", "{album}/out.json.journal"), "out.json", "must be different files"),
        ((), "theirs.json", "no run of piclip annotate has made it"),
        (("--output-format", "tiff"), "out.json", "There is no label format 'tiff'"),
        (("--format", "yolo"), "out", "labels.json: there is no such folder"),
        (("--output-format", "voc"), "photos", "holds the images themselves"),
        (("--review", "{album}/photos/photo0.png"), "out.json", "is another file already"),
    ],
)
def test_what_cannot_be_done_is_refused(annotate, album, options, output, sentence):
    (album.folder / "theirs.json").write_text("{}", encoding="utf-8")
    ran = annotate(*(text.format(album=album.folder) for text in options), output=output)
    assert ran.code == 2
    assert sentence in ran.sentence
    assert (album.folder / "theirs.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("option", ["--min-score", "--simplify", "--num-gpus"])
def test_what_is_no_number_is_refused(annotate, option):
    for value in ("nan", "inf"):
        ran = annotate(option, value)
        assert ran.code == 2
        assert f"Invalid value for '{option}'" in ran.err


@pytest.mark.parametrize("more", [(), ("--engine", "local")])
@pytest.mark.parametrize(("name", "format"), [(" cat", "voc"), ("a/b", "masks"), ("Sky", "masks")])
def test_names_that_a_format_cannot_hold_are_refused_before_the_work(
    annotate, album, monkeypatch, more, name, format
):
    labels = album.json("labels.json")
    labels["categories"][1]["name"] = name
    (album.folder / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setattr(FewShotSegmenter, "from_pretrained", None)
    ran = annotate("--output-format", format, *more, output="out")
    assert (ran.code, repr(name) in ran.sentence) == (2, True)


def test_a_missing_labelled_image_is_listed_and_the_rest_is_used(annotate, album):
    (album.photos / "photo1.png").unlink()
    ran = annotate()
    assert ran.code == 0
    assert "the image 'photo1.png' is not in this folder; its labels are left out" in ran.err
    assert "4 of 4 images annotated" in ran.err


def test_labels_that_cannot_be_used_are_listed_and_strict_ends_there(annotate, album):
    content = album.json("labels.json")
    [box] = [a for a in content["annotations"] if a["image_id"] == 101 and a["category_id"] == 3]
    box["segmentation"] = []
    content["annotations"].append(box | {"id": 99, "image_id": 7})
    (album.folder / "labels.json").write_text(json.dumps(content))
    ran = annotate("--json", "--min-area", 0)
    assert ran.code == 0
    assert "2 of the labels cannot be used and are left out (--strict ends there):" in ran.err
    for words in ("annotation 99: the image id 7 is not among", "this is a box without a mask"):
        assert sum(words in sentence for sentence in json.loads(ran.out)["skipped"]) == 1
    ran = annotate("--overwrite", "--strict")
    assert (ran.code, "2 of the labels cannot be used:" in ran.err) == (1, True)
    ran = annotate("--overwrite", "--boxes", "as-masks")
    assert (ran.code, "1 of the labels cannot be used" in ran.err) == (0, True)


def test_labels_of_more_images_than_are_there_work(annotate, album):
    for number in (1, 2, 4, 5):
        (album.photos / f"photo{number}.png").unlink()
    ran = annotate("--json")
    assert (ran.code, json.loads(ran.out)["failed"]) == (0, [])
    gone = [f"photo{number}.png" for number in (1, 2, 4, 5)]
    assert json.loads(ran.out)["missing"] == gone
    assert "4 images that the labels list are not in" in ran.err
    assert all(f"  {name}" in ran.err for name in gone)
    assert [image["file_name"] for image in album.json()["images"]] == ["photo3.png"]


@pytest.mark.parametrize("more", [(), ("--engine", "local")])
@pytest.mark.parametrize("spoil", ["cut", "resized", "heic"])
def test_a_labelled_image_that_cannot_be_read_costs_no_other(annotate, album, spoil, more):
    path = album.photos / "photo1.png"
    words = {"cut": "truncated or damaged", "resized": "64 x 128 pixels", "heic": "but HEIC"}[spoil]
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif spoil == "resized":
        Image.new("RGB", (64, 128)).save(path)
    else:
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1")
    ran = annotate(*more)
    other_size_alone = spoil == "resized" and more  # shards know no sizes
    assert ran.code == (0 if other_size_alone else 1)
    assert "1 of the labels cannot be used and are left out" in ran.err
    # As a label, and as an image without one.
    assert ran.err.count(words) == (1 if other_size_alone else 2)
    assert {file.path for file in album.labels("out.json").images if file.regions} <= {
        f"photo{number}.png" for number in range(2, 6)
    }
    ran = annotate("--overwrite", "--strict", *more)
    assert (ran.code, words in ran.sentence) == (1, True)
    (album.photos / "photo0.png").write_bytes(b"no image")
    ran = annotate("--overwrite", *more)
    assert (ran.code, "2 labels cannot be used, the first: " in ran.sentence) == (2, True)
