"""COCO JSON: real annotations in and out, pycocotools and COCOeval, bad files."""

import contextlib
import io
import json
import tracemalloc

import numpy as np
import pytest
from format_builders import HOLED, NAMES, labels, simple, unhurried
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats import coco, read_labels


def load(content):
    """What pycocotools makes of a file, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = json.loads(json.dumps(content))
        api.createIndex()
    return api


@unhurried
@given(labels(crowds=True, scores=True), st.booleans())
def test_round_trip_is_lossless(tmp_path, given_labels, polygons):
    coco.write(given_labels, tmp_path / "out.json", polygons=polygons)
    back = coco.read(tmp_path / "out.json")
    assert back.class_names == given_labels.class_names
    for old, new in zip(given_labels.images, back.images, strict=True):
        assert (old.path, old.size, old.regions) == (new.path, new.size, new.regions)
    coco.write(back, tmp_path / "again.json", polygons=polygons)
    assert coco.read(tmp_path / "again.json") == back


@pytest.mark.parametrize(
    ("part", "polygons"),
    [("train", False), ("val", False), pytest.param("val", True, marks=pytest.mark.slow)],
)
def test_real_annotations_come_back_by_mask(shared, tmp_path, part, polygons):
    source = shared / f"data/coco-mini/annotations/instances_{part}2014.json"
    [written] = coco.write(coco.read(source), tmp_path / "out.json", polygons=polygons)
    old, new = load(json.loads(source.read_text())), load(json.loads(written.read_text()))
    assert {k: v["name"] for k, v in old.cats.items()} == {
        k: v["name"] for k, v in new.cats.items()
    }
    assert old.imgs.keys() == new.imgs.keys()
    compared = 0
    for number in old.imgs:
        pairs = zip(old.imgToAnns[number], new.imgToAnns[number], strict=True)
        for before, after in pairs:
            assert before["category_id"] == after["category_id"]
            assert before["iscrowd"] == after["iscrowd"]
            masks = [old.annToRLE(before)], [new.annToRLE(after)]
            # Masks whose intersection is their union are the same.
            assert run_lengths.iou(*masks, [0]) == 1
            assert after["area"] == run_lengths.area(masks[0])[0]
            compared += 1
    assert compared == len(old.anns) == {"train": 1665, "val": 1295}[part]


@pytest.mark.parametrize("polygons", [False, True])
def test_cocoeval_loads_it_and_finds_it_perfect(polygons):
    content = coco.to_dict(simple(HOLED, ~HOLED), polygons=polygons)
    truth = load(content)
    found = [a | {"score": 0.9} for a in content["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_area_box_score_and_hole():
    [annotation] = coco.to_dict(simple(HOLED), polygons=True)["annotations"]
    assert annotation["area"] == HOLED.sum()
    assert annotation["bbox"] == [0, 0, 7, 5]
    assert "score" not in annotation
    api = load(coco.to_dict(simple(HOLED), polygons=True))
    np.testing.assert_array_equal(api.annToMask(api.anns[1]), HOLED)


def valid():
    content = coco.to_dict(simple(HOLED))
    content["annotations"][0]["segmentation"] = [[0, 0, 3, 0, 3, 3]]
    return content


def change(**fields):
    def apply(content):
        content["annotations"][0].update(fields)

    return apply


BAD = [
    (lambda c: c.pop("categories"), UsageError, "'categories' is missing or no list"),
    (lambda c: c["images"][0].pop("height"), UsageError, "image 0 .photo.png.: .*'height'"),
    (lambda c: c["images"][0].update(height=10**9), ImageError, "image 0 .* the limit"),
    (lambda c: c["images"].append(c["images"][0]), UsageError, "image 1: the id 1 is used twice"),
    (
        lambda c: c["categories"].append({"id": 1, "name": "x"}),
        UsageError,
        "the id 1 is used twice",
    ),
    (lambda c: c["annotations"].append(7), MaskError, "annotation 1: an object"),
    (change(category_id=77), MaskError, "annotation 1: the category 77 is not among"),
    (change(image_id=77), MaskError, "annotation 1: the image id 77 is not among"),
    (change(segmentation=None), MaskError, "annotation 1: this is a box without a mask"),
    (change(segmentation=[]), MaskError, "annotation 1: this is a box without a mask"),
    (
        change(segmentation="x"),
        MaskError,
        "annotation 1: the field 'segmentation' is missing or no mask",
    ),
    (change(segmentation=[[1, 1, 1, 1, 1, 1]]), MaskError, "annotation 1: .*covers no pixel"),
    (change(segmentation=[[0, 0, 1]]), MaskError, "annotation 1: a polygon must be"),
    (change(segmentation=[[0, 0, 70, 0, 3, 3]]), MaskError, "annotation 1: .*lies outside"),
    (change(segmentation={"size": [5, 7]}), MaskError, "annotation 1: the run lengths"),
    (change(segmentation={"size": [5, 7], "counts": [3]}), MaskError, "annotation 1: .*damaged"),
    (change(segmentation={"size": [7, 5], "counts": [35]}), MaskError, "annotation 1: the mask's"),
    (change(score=float("nan")), MaskError, "annotation 1: the field 'score' is no number"),
    (change(score="high"), MaskError, "annotation 1: the field 'score' is no number"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), BAD)
def test_bad_files_are_named_with_the_item(tmp_path, spoil, error, message):
    content = valid()
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    assert coco.read(path).images[0].regions[0].class_name == NAMES[0]
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(error, match=rf"bad\.json.*{message}"):
        read_labels(path, format="coco", strict=True)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(tmp_path, data):
    (tmp_path / "bad.json").write_bytes(data)
    with pytest.raises(UsageError, match=r"bad\.json: this is not"):
        coco.read(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="no such file"):
        coco.read(tmp_path / "none.json")


def test_the_fields_come_in_any_order_and_the_rest_is_left_out(tmp_path):
    content = valid()
    content["annotations"][0]["segmentation"].append([4, 0, 7, 0, 7.5, 2.25, 4, 2])
    content["annotations"][0] |= {"bbox": [0, 0, 7, 3], "attributes": {"occluded": False}}
    path, turned = tmp_path / "a.json", tmp_path / "turned.json"
    path.write_text(json.dumps(content))
    turned.write_text(json.dumps(dict(reversed(content.items())), indent=1))
    assert coco.recognise(path) and coco.recognise(turned)
    assert coco.read(path) == coco.read(turned)
    [image] = coco.load(turned)[1].values()
    [kept] = image.annotations
    assert kept.keys() == {"id", "image_id", "category_id", "segmentation", "bbox", "iscrowd"}
    outlines = [list(outline) for outline in kept["segmentation"]]
    assert outlines == content["annotations"][0]["segmentation"]


def test_memory_is_a_small_multiple_of_the_file(tmp_path):
    """Lists of Python's numbers would take five times the file, beside its text."""
    corners = np.random.default_rng(0).uniform(0, 9, (2000, 200)).round(2).tolist()
    annotation = {"image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0.5, 0.5, 9.5, 9.5]}
    path = tmp_path / "large.json"
    path.write_text(
        json.dumps(
            valid()
            | {"annotations": [annotation | {"id": n, "segmentation": [c]}
                               for n, c in enumerate(corners, start=1)]}
        )
    )  # fmt: skip
    tracemalloc.start()
    try:
        coco.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * path.stat().st_size


def test_class_names_set_the_order_and_refuse_others(tmp_path):
    coco.write(simple(HOLED), tmp_path / "a.json")
    assert coco.read(tmp_path / "a.json", class_names=NAMES[::-1]).class_names == NAMES[::-1]
    with pytest.raises(UsageError, match="category 1: the class 'big dog' is unknown"):
        coco.read(tmp_path / "a.json", class_names=["cat"])
