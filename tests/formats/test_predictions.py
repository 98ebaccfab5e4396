"""Predictions as labels: the registry, the methods of Segmentation, and supervision."""

import contextlib
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from format_builders import HOLED, NAMES, mask_of, save_images, simple
from PIL import Image
from pycocotools import mask as run_lengths

from piclip.errors import ImageError, UsageError
from piclip.formats import (
    FORMATS,
    LabelledFile,
    Labels,
    Region,
    detect,
    from_segmentation,
    labelstudio,
    read_labels,
    to_detection_dataset,
    write_labels,
    write_overlays,
)
from piclip.formats.predicted import merge_coco
from piclip.io.extras import library
from piclip.io.overlays import draw_overlay
from piclip.results import Priors, Segmentation

MAP = np.array([[1, 0, 0, 2, 2], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [255, 0, 0, 0, 1]], np.uint8)


def segmentation(class_map=MAP, presence=None):
    scores = np.random.default_rng(0).random((2, *class_map.shape), dtype=np.float32)
    priors = Priors(*np.zeros((5, 2, 1, 1), np.float32))
    presence = None if presence is None else np.array(presence, dtype=np.float32)
    return Segmentation(NAMES, class_map, scores, priors, None, "photo", presence=presence)


def test_connected_parts_are_regions_with_their_mean_score():
    result = segmentation()
    file = from_segmentation(result, "in/photo.jpg", source="s3://x")
    assert (file.path, file.size, file.source) == ("in/photo.jpg", (4, 5), "s3://x")
    parts = [
        mask_of(["#....", ".#...", ".....", "....."]),
        mask_of([".....", ".....", "....#", "....#"]),
        mask_of(["...##", ".....", ".....", "....."]),
    ]
    assert [region.class_name for region in file.regions] == ["cat", "cat", "big dog"]
    for region, mask, index in zip(file.regions, parts, (0, 0, 1), strict=True):
        np.testing.assert_array_equal(region.mask.to_array(), mask)
        assert region.score == pytest.approx(result.scores[index][mask].mean(), abs=1e-4)
    np.testing.assert_array_equal(file.ignore.to_array(), MAP == 255)
    np.testing.assert_array_equal(file.class_map(NAMES), MAP)


def test_one_region_per_class_and_small_ones_left_out():
    file = from_segmentation(segmentation(), instances=False, min_area=3)
    assert [(r.class_name, r.mask.area) for r in file.regions] == [("cat", 4)]
    assert file.path == "photo"


def test_small_ones_may_be_a_share_of_the_image():
    file = from_segmentation(segmentation(), instances=False, min_area="15%")
    assert [(r.class_name, r.mask.area) for r in file.regions] == [("cat", 4)]


@pytest.mark.parametrize("polygons", [False, True])
def test_to_coco(polygons):
    content = json.loads(json.dumps(segmentation().to_coco("photo.jpg", polygons=polygons)))
    (image,) = content["images"]
    assert image == {"id": image["id"], "file_name": "photo.jpg", "height": 4, "width": 5}
    assert 0 < image["id"] < 2**40
    assert [c["name"] for c in content["categories"]] == list(NAMES)
    drawn = np.zeros_like(MAP)
    for a in content["annotations"]:
        shape = a["segmentation"]
        packed = run_lengths.merge(run_lengths.frPyObjects(shape, 4, 5)) if polygons else shape
        mask = run_lengths.decode(packed)
        drawn[mask > 0] = a["category_id"]
        assert a["area"] == mask.sum()
        assert 0 <= a["score"] <= 1
    np.testing.assert_array_equal(drawn, np.where(MAP == 255, 0, MAP))


def test_presence_is_said_of_each_image_of_a_coco_file(tmp_path):
    told, untold = segmentation(presence=(0.75, 0.25)), segmentation()
    assert from_segmentation(told).presence == {"cat": 0.75, "big dog": 0.25}
    content = merge_coco([replace(told, name="a"), replace(untold, name="b")])
    assert [image.get("presence") for image in content["images"]] == [
        {"cat": 0.75, "big dog": 0.25},
        None,
    ]
    mixed = merge_coco([replace(told, name="a"), replace(told, source="/x/b.png")])
    assert [image["file_name"] for image in mixed["images"]] == ["a", "/x/b.png"]
    assert told.to_coco()["images"][0]["presence"] == {"cat": 0.75, "big dog": 0.25}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert [file.path for file in read_labels(path).images] == ["a", "b"]


def test_the_regions_for_label_studio_tell_presence():
    file = from_segmentation(segmentation(presence=(0.75, 0.25)))
    notes = [result["meta"]["text"] for result in labelstudio.to_prediction(file)["result"]]
    assert notes == [["presence 0.7500"], ["presence 0.7500"], ["presence 0.2500"]]
    results = labelstudio.to_prediction(from_segmentation(segmentation()))["result"]
    assert not any("meta" in result for result in results)


def test_to_yolo():
    lines = segmentation().to_yolo().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "0", "1"]
    corners = {tuple(c) for c in np.array(lines[2].split()[1:], float).reshape(-1, 2)}
    assert corners == {(0.6, 0), (1, 0), (1, 0.25), (0.6, 0.25)}
    assert len(segmentation().to_yolo(instances=False).splitlines()) == 2


def test_to_supervision():
    supervision = pytest.importorskip("supervision")
    result = segmentation()
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert (found.mask.shape, found.mask.dtype) == ((3, 4, 5), np.bool_)
    assert list(found.class_id) == [0, 0, 1]
    assert list(found.data["class_name"]) == ["cat", "cat", "big dog"]
    np.testing.assert_array_equal(found.mask.any(axis=0), result.mask)
    scores = [region.score for region in from_segmentation(result).regions]
    np.testing.assert_allclose(found.confidence, scores, atol=1e-6)
    np.testing.assert_array_equal(found.xyxy[2], [3, 0, 4, 0])
    assert len(found[found.class_id == 1]) == 1


def test_a_whole_run_is_a_dataset_of_supervision(tmp_path):
    supervision = pytest.importorskip("supervision")
    found = replace(from_segmentation(segmentation(), "in/photo.png"), ignore=None)
    empty = LabelledFile("empty.png", 3, 2)
    labels = Labels(NAMES, (found, empty))
    save_images(labels, tmp_path)
    write_labels(labels, tmp_path / "run.json", format="coco")
    dataset = to_detection_dataset(read_labels(tmp_path / "run.json"), tmp_path)
    assert isinstance(dataset, supervision.DetectionDataset)
    assert (dataset.classes, len(dataset)) == (list(NAMES), 2)
    items = {path: (image, detections) for path, image, detections in dataset}
    image, detections = items[str(tmp_path / "in/photo.png")]
    assert image.shape == (4, 5, 3)
    for mask, score, index, region in zip(
        detections.mask, detections.confidence, detections.class_id, found.regions, strict=True
    ):
        np.testing.assert_array_equal(mask, region.mask.to_array())
        assert (NAMES[index], score) == (region.class_name, pytest.approx(region.score))
    assert len(items[str(tmp_path / "empty.png")][1]) == 0
    by_hand = Labels(NAMES, (replace(found, regions=(Region("cat", found.regions[0].mask),)),))
    [(_, _, given)] = to_detection_dataset(by_hand, tmp_path)
    assert (len(given), given.confidence) == (1, None)


def test_nothing_found_is_no_detection():
    nothing = segmentation(np.zeros((4, 5), np.uint8))
    found = nothing.to_supervision()
    assert len(found) == 0
    assert found.mask.shape == (0, 4, 5)
    assert nothing.to_yolo() == ""
    assert nothing.to_coco()["annotations"] == []


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "labelstudio"])
def test_every_format_is_told_by_its_content(tmp_path, name):
    labels = simple(HOLED)
    root = save_images(labels, tmp_path / "images")
    target = tmp_path / ("out.json" if name == "coco" else "out")
    write_labels(labels, target, format=name)
    assert detect(target) == name
    back = read_labels(target, images=root)
    np.testing.assert_array_equal(back.images[0].mask_of("cat"), HOLED)
    assert list(back.supports(root)) == ["cat"]


def test_label_studio_is_told_by_its_content(tmp_path):
    (tmp_path / "a.json").write_text('[{"data": {"image": "a.png"}}]')
    assert detect(tmp_path / "a.json") == "labelstudio"


def test_unknown_formats_list_the_valid_ones(tmp_path):
    every = "coco, labelstudio, labelme, yolo, voc, masks"
    with pytest.raises(UsageError, match=f"no label format 'xml'; the formats are {every}"):
        write_labels(simple(HOLED), tmp_path, format="xml")
    (tmp_path / "a.json").write_text("{}")
    for source in (tmp_path, tmp_path / "a.json"):
        with pytest.raises(UsageError, match=f"in none of the label formats {every}"):
            detect(source)
    with pytest.raises(UsageError, match="no such file or folder"):
        detect(tmp_path / "none")


def test_labels_are_drawn_over_their_images(tmp_path):
    labels = simple(HOLED)
    with pytest.raises(ImageError, match=r"photo\.png is not in this folder"):
        write_overlays(labels, tmp_path / "out", images=tmp_path)
    save_images(labels, tmp_path)
    [path] = write_overlays(labels, tmp_path / "out", images=tmp_path)
    expected = draw_overlay(Image.new("RGB", (7, 5)), HOLED.astype(np.uint8))
    with Image.open(path) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_two_images_of_one_overlay_are_refused(tmp_path):
    [file] = simple(HOLED).images
    files = (file, replace(file, path="photo.jpg"))
    unlabelled = replace(files[1], regions=())
    save_images(Labels(NAMES, files), tmp_path)
    with pytest.raises(UsageError, match="only their suffixes differ"):
        write_overlays(Labels(NAMES, files), tmp_path / "out", images=tmp_path)
    labels = Labels(NAMES, (file, unlabelled))
    assert len(write_overlays(labels, tmp_path / "out", images=tmp_path)) == 1


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    library.cache_clear()
    advice = r"\(pycocotools\.mask is not installed\): pip install 'piclip\[formats\]'"
    with pytest.raises(UsageError, match=advice):
        segmentation().to_coco()
    with pytest.raises(UsageError, match="no_such_library"):
        library("no_such_library")


def test_predictions_evaluate_as_perfect_against_themselves():
    from pycocotools.coco import COCO

    content = segmentation().to_coco()
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = content
        api.createIndex()
        results = api.loadRes(content["annotations"])
    assert len(results.anns) == 3
    assert Labels(NAMES, ()).labelled == ()
