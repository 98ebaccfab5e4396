"""Label Studio: predictions that its own SDK accepts, exports in, bad exports."""

import json
from dataclasses import replace

import numpy as np
import pytest
from format_builders import HOLED, NAMES, labels, pack, save_images, simple, unhurried
from hypothesis import given

from piclip.errors import MaskError, UsageError
from piclip.formats import LabelledFile, Labels, Region, labelstudio, read_labels

brush = pytest.importorskip("label_studio_sdk.converter.brush")


def accept(tasks):
    """What Label Studio exports after a person has accepted every prediction."""
    return [
        {"id": number, "data": task["data"], "annotations": task.get("predictions", [])}
        for number, task in enumerate(tasks, start=1)
    ]


@unhurried
@given(labels())
def test_accepted_predictions_come_back_exactly(tmp_path, given_labels):
    save_images(given_labels, tmp_path)
    [path] = labelstudio.write(given_labels, tmp_path / "out.json")
    path.write_text(json.dumps(accept(json.loads(path.read_text()))))
    back = labelstudio.read(path, images=tmp_path, class_names=NAMES)
    for old, new in zip(given_labels.images, back.images, strict=True):
        assert (new.path, new.size, new.regions) == (old.path, old.size, old.regions)


def test_the_sdk_accepts_the_predictions():
    from label_studio_sdk.label_interface import LabelInterface

    names = ("cat", 'a "big" <dog> & more')
    regions = tuple(Region(n, pack(HOLED), score=s) for n, s in zip(names, (0.5, 1.0), strict=True))
    prediction = labelstudio.to_prediction(LabelledFile("a.png", *HOLED.shape, regions))
    interface = LabelInterface(labelstudio.labelling_interface(names))
    assert interface.validate_prediction(prediction, return_errors=True) == []
    assert prediction["score"] == 0.75
    assert [result["score"] for result in prediction["result"]] == [0.5, 1.0]
    alpha = brush.decode_rle(prediction["result"][0]["value"]["rle"]).reshape(5, 7, 4)[:, :, 3]
    np.testing.assert_array_equal(alpha, HOLED * 255)
    prediction["result"][0]["value"]["brushlabels"] = ["horse"]
    assert interface.validate_prediction(prediction, return_errors=True) != []


def test_tasks_keep_the_url_and_id_by_which_the_tool_knows_them(tmp_path):
    known = LabelledFile("a.png", 5, 7, id=31, source="s3://bucket/a.png")
    labelstudio.write(Labels(NAMES, (known, LabelledFile("x/b c.png", 5, 7))), tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text()) == [
        {"data": {"image": "s3://bucket/a.png"}, "id": 31},
        {"data": {"image": "/data/local-files/?d=x/b%20c.png"}},
    ]


def test_new_images_are_addressed_beside_those_that_are_tasks(tmp_path):
    size = {"original_width": 7, "original_height": 5}
    square = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cat"]}
    drawn = {"type": "rectanglelabels", "value": square, **size}
    new = LabelledFile("x/d e.png", 5, 7)
    for address, beside in (
        ("/data/local-files/?d=my%20set/photos/x/b%20c.png", "my%20set/photos/x/d%20e.png"),
        ("http://host/data/local-files/?d=x/b%20c.png", "x/d%20e.png"),
        ("/data/upload/6/0a1b2c3d-b_c.png", "x/d%20e.png"),  # tells nothing of other images
    ):
        task = {"id": 3, "data": {"image": address}, "annotations": [{"result": [drawn]}]}
        (tmp_path / "export.json").write_text(json.dumps([task]))
        found = read_labels(tmp_path / "export.json")
        known = replace(found.images[0], path="x/b c.png")
        written = Labels(found.class_names, (known, new))
        labelstudio.write(written, tmp_path / "o.json")
        tasks = json.loads((tmp_path / "o.json").read_text())
        start = "http://host" if address.startswith("http") else ""
        addresses = [address, f"{start}/data/local-files/?d={beside}"]
        assert [task["data"]["image"] for task in tasks] == addresses
        labelstudio.write(written, tmp_path / "o.json", url="s3://b/")
        assert json.loads((tmp_path / "o.json").read_text())[1]["data"]["image"] == (
            "s3://b/x/d%20e.png"
        )


def test_a_name_that_no_address_can_hold_is_told(tmp_path):
    file = LabelledFile("x/b\udcff.png", 5, 7)
    labelstudio.write(Labels(NAMES, (replace(file, source="s3://b/b.png"),)), tmp_path / "o.json")
    with pytest.raises(UsageError, match=r"'x/b\\udcff\.png': .* UTF-8; rename the file, or write"):
        labelstudio.write(Labels(NAMES, (file,)), tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def test_tasks_keep_their_data_and_predictions_the_names_of_the_project(tmp_path):
    size = {"original_width": 7, "original_height": 5}
    rle = brush.mask2rle(HOLED.astype(np.uint8) * 255)
    painted = {
        **{"type": "brushlabels", "from_name": "pen", "to_name": "photo", **size},
        "value": {"format": "rle", "rle": rle, "brushlabels": ["cat"]},
    }
    boxed = {"type": "rectanglelabels", "from_name": "box", "to_name": "photo", **size, "value": {}}
    tasks = [
        {"id": 4, "data": {"img": "s3://b/a.png"}, "annotations": [{"result": [boxed, painted]}]},
        {"id": 5, "data": {"image": "s3://b/b.png", "site": {"lat": 3}}, "annotations": []},
    ]
    save_images(Labels(NAMES, tuple(LabelledFile(n, 5, 7) for n in ("a.png", "b.png"))), tmp_path)
    path = tmp_path / "export.json"
    for painting in (True, False):
        tasks[0]["annotations"][0]["result"] = [boxed, painted] if painting else [boxed]
        path.write_text(json.dumps(tasks))
        found = labelstudio.read(path, images=tmp_path, class_names=NAMES)
        region = Region("cat", pack(HOLED), score=0.5)
        proposed = tuple(replace(file, regions=(region,)) for file in found.images)
        labelstudio.write(replace(found, images=proposed), tmp_path / "tasks.json")
        written = json.loads((tmp_path / "tasks.json").read_text())
        assert [task["data"] for task in written] == [task["data"] for task in tasks]
        for task in written:
            [shape] = task["predictions"][0]["result"]
            names = ("pen", "photo") if painting else ("tag", "photo")
            assert (shape["from_name"], shape["to_name"]) == names


def result(**changes):
    rle = brush.mask2rle(HOLED * np.uint8(255))
    return {
        "id": "r1",
        "type": "brushlabels",
        "original_width": 7,
        "original_height": 5,
        "value": {"format": "rle", "rle": rle, "brushlabels": ["cat"]},
    } | changes


def task(*results, url="/data/upload/3/0a1b2c3d-photo.png", **changes):
    return {"id": 5, "data": {"image": url}, "annotations": [{"result": [*results]}]} | changes


def read(tmp_path, *tasks, **options):
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    return read_labels(tmp_path / "export.json", format="labelstudio", **options)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/upload/3/0a1b2c3d-photo.png", "photo.png"),
        ("https://host/data/upload/3/0a1b2c3d-a%20b.png?x=1", "a b.png"),
        ("/data/local-files/?d=folder%2Fphoto.png", "folder/photo.png"),
        ("s3://bucket/folder/photo.png", "folder/photo.png"),
    ],
)
def test_images_are_told_from_urls(tmp_path, url, path):
    [file] = read(tmp_path, task(result(), url=url)).images
    assert (file.path, file.source, file.id) == (path, url, 5)


def test_exported_names_are_kept_where_the_images_have_them(tmp_path):
    save_images(Labels((), (LabelledFile("0a1b2c3d-photo.png", 5, 7),)), tmp_path)
    assert read(tmp_path, task(result()), images=tmp_path).images[0].path == "0a1b2c3d-photo.png"


def test_polygons_and_brushes_with_separate_labels(tmp_path):
    square = [[0, 0], [0, 80], [400 / 7, 80], [400 / 7, 0]]
    polygon = result(type="polygonlabels", value={"points": square, "polygonlabels": ["big dog"]})
    value = result()["value"]
    twins = (
        result(type="brush", value={"rle": value["rle"], "format": "rle"}),
        result(type="labels", value={"rle": value["rle"], "format": "rle", "labels": ["cat"]}),
    )
    others = ({"type": "choices", "value": {"choices": ["x"]}}, {"type": "relation"})
    [file] = read(tmp_path, task(polygon, *twins, *others)).images
    expected = np.zeros((5, 7), bool)
    expected[:4, :4] = True
    assert file.regions == (Region("big dog", pack(expected)), Region("cat", pack(HOLED)))


def test_of_several_annotations_truth_then_the_latest_counts(tmp_path):
    def annotation(name, **fields):
        value = result()["value"] | {"brushlabels": [name]}
        return {"result": [result(value=value)]} | fields

    drafts = [
        annotation("new", updated_at="2024-02-02T00:00:00Z"),
        annotation("old", updated_at="2023-02-02T00:00:00Z"),
        annotation("skipped", updated_at="2025-01-01T00:00:00Z", was_cancelled=True),
    ]
    truth = annotation("truth", updated_at="2020-01-01T00:00:00Z", ground_truth=True)
    for annotations, name in ((drafts, "new"), ([*drafts, truth], "truth")):
        assert read(tmp_path, task(annotations=annotations)).class_names == (name,)


def test_unlabelled_tasks_are_kept_if_their_image_is_there(tmp_path):
    empty = task(annotations=[])
    assert read(tmp_path, empty).images == ()
    save_images(simple(HOLED), tmp_path)
    [file] = read(tmp_path, empty, images=tmp_path).images
    assert (file.path, file.size, file.regions) == ("photo.png", (5, 7), ())


def test_a_task_submitted_empty_says_that_no_class_is_there(tmp_path):
    names = ("a.png", "b.png", "c.png", "d.png")
    save_images(Labels(NAMES, tuple(LabelledFile(name, 5, 7) for name in names)), tmp_path)
    choice = {"type": "choices", "value": {"choices": ["blurred"]}}
    told = {
        "a.png": [{"result": []}],
        "b.png": [{"result": [], "was_cancelled": True}],
        "c.png": [{"result": [choice]}],
        "d.png": [],
    }
    tasks = [{"data": {"image": name}, "annotations": found} for name, found in told.items()]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    found = labelstudio.read(path, images=tmp_path, class_names=NAMES)
    assert {file.path: file.absent for file in found.images} == {
        **dict.fromkeys(names, ()),
        "a.png": NAMES,
    }


VALUE = {"format": "rle", "brushlabels": ["cat"]}


def stroke(word_size, equal, length, words):
    """The bytes of a brush stroke of one run in an image of 5 x 7 pixels."""
    head = f"{5 * 7 * 4:032b}{word_size - 1:05b}" + "0010010001111111"
    bits = f"{head}{equal}11{length - 1:016b}" + "".join(f"{w:0{word_size}b}" for w in words)
    return list(int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big"))


PAST_THE_END = stroke(8, 0, 200, [0] * 200)
WIDE = stroke(9, 1, 140, [511])


@pytest.mark.parametrize(
    ("spoilt", "error", "message"),
    [
        (7, UsageError, "not a list of tasks"),
        ({"id": 5}, UsageError, "task 1: the field 'data' is missing"),
        (task(url=""), UsageError, "task 1: which image"),
        (task(annotations=3), UsageError, "task 1: the field 'annotations'"),
        (task("x"), UsageError, "task 1: a result"),
        ({"type": "brushlabels", "value": VALUE | {"rle": []}}, MaskError, "'original_height'"),
        (VALUE | {"rle": [1, 2, 3]}, MaskError, r"\(photo.png\): region r1: the brush .* damaged"),
        (VALUE | {"rle": [0, 0, 0, 140]}, MaskError, "region r1: the brush .* damaged"),
        (VALUE | {"rle": [255] * 9}, MaskError, "region r1: the brush .* damaged"),
        (VALUE | {"rle": ["x"]}, MaskError, "region r1: the brush .* damaged"),
        (task(result(), url="http://[x/a.png"), UsageError, "task 1: 'http://.x/a.png' is no addr"),
        (VALUE | {"rle": 10**15}, MaskError, "region r1: the brush .* damaged"),  # its bytes
        (VALUE | {"rle": PAST_THE_END}, MaskError, "region r1: the brush .* damaged"),
        (VALUE | {"rle": WIDE}, MaskError, "region r1: the brush .* damaged"),
        (
            VALUE | {"rle": brush.mask2rle(np.zeros((5, 7), np.uint8))},
            MaskError,
            "region r1: the label covers no pixel",
        ),
        ({"rle": [1], "brushlabels": []}, MaskError, "region r1: the region has no label"),
        ({"rle": [1], "brushlabels": ["cow"]}, UsageError, "region r1: the class 'cow' is unknown"),
    ],
)
def test_bad_exports_are_named_with_the_task(tmp_path, spoilt, error, message):
    if isinstance(spoilt, dict) and {"rle", "value"} & set(spoilt):
        spoilt = task(spoilt if "type" in spoilt else result(value=spoilt))
    with pytest.raises(error, match=rf"export\.json.*{message}"):
        read(tmp_path, task(result(), url="a.png", id=1), spoilt, class_names=NAMES, strict=True)
