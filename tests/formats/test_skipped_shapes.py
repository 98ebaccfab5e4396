"""One bad shape never costs the job: it is left out and listed, and strict reading refuses it."""

import json

import numpy as np
import pytest
from format_builders import HOLED, pack, save_images, simple
from PIL import Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats import LabelledFile, Labels, Region, read_labels, write_labels

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]


def coco_file(folder, *shapes, size=(10, 10), **more):
    """One image, an annotation of cat for each shape."""
    path = folder / "labels.json"
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": [2, 3, 4, 5], **shape}
            for n, shape in enumerate(shapes, start=1)
        ],
    }
    path.write_text(json.dumps(content | more))
    return path


def box(left, top, width, height, size=(10, 10)):
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def test_all_bad_annotations_are_listed_and_the_good_ones_used(tmp_path):
    bad = [
        {"segmentation": [[1, 1, 3, 3]]},
        {"segmentation": []},
        {},
        {"segmentation": [[1, 1, 2, 2, 1, 1, 2, 2]]},
        {"segmentation": [[1, 1, 50, 1, 50, 50]]},
        {"segmentation": {"size": [10, 10], "counts": [100]}},
        {"segmentation": {"size": [5, 5], "counts": [20, 5]}},
    ]
    path = coco_file(tmp_path, {"segmentation": [SQUARE]}, *bad, {"segmentation": [SQUARE]})
    labels = read_labels(path)
    assert [r.mask.to_array().sum() for r in labels.images[0].regions] == [4, 4]
    assert len(labels.skipped) == len(bad)
    for number, sentence in enumerate(labels.skipped, start=2):
        assert sentence.startswith(f"{path}: image 'a.jpg', annotation {number}: ")
        assert sentence.endswith(".") and "\n" not in sentence
    with pytest.raises(MaskError) as error:
        read_labels(path, strict=True)
    assert str(error.value).splitlines()[1:] == list(labels.skipped)


def test_annotations_of_unknown_images_and_classes_cost_only_themselves(tmp_path):
    shape = {"segmentation": [SQUARE]}
    bad = [{"image_id": 7}, {"category_id": 7}, {"image_id": "1"}, {"category_id": None}]
    path = coco_file(tmp_path, *(shape | more for more in bad), shape)
    labels = read_labels(path)
    assert [r.mask for r in labels.images[0].regions] == [pack(box(1, 1, 2, 2))]
    for number, sentence in enumerate(labels.skipped, start=1):
        assert sentence.startswith(f"{path}: annotation {number}: ")
    assert len(labels.skipped) == len(bad)


@pytest.mark.parametrize(("size", "words"), [((9000, 6000), "54,000,000 pixels"), ((0, 3), "no p")])
def test_an_image_that_is_too_large_costs_only_itself(tmp_path, size, words):
    path = coco_file(tmp_path, {"segmentation": [SQUARE]}, *[{"image_id": 2}] * 2)
    content = json.loads(path.read_text())
    large = {"id": 2, "file_name": "b.jpg", "height": size[0], "width": size[1]}
    path.write_text(json.dumps(content | {"images": [large, *content["images"]]}))
    labels = read_labels(path)
    assert [(file.path, len(file.regions)) for file in labels.images] == [("a.jpg", 1)]
    [sentence] = labels.skipped
    assert f"{path}: image 0 (b.jpg): the image has {words}" in sentence


def test_shapes_without_a_known_class_cost_only_themselves(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (10, 10)).save(tmp_path / "photos/a.png")
    (tmp_path / "a.txt").write_text("7 0 0 1 0 1 1\ncat 0 0 1 0 1 1\n0 0 0 1 0 1 1\n")
    (tmp_path / "classes.txt").write_text("cat")
    points = [[1, 1], [3, 1], [3, 3], [1, 3]]
    shapes = [{"points": points}, 3, {"label": "cat", "points": points}]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 10, "imageWidth": 10}
    (tmp_path / "a.json").write_text(json.dumps(content))
    tasks = json.loads(label_studio(tmp_path, "rectangle", {"x": 1}).read_text())
    [result] = tasks[0]["annotations"][0]["result"]
    whole = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["cat"]}
    without = [
        result | {"value": {**whole, "rectanglelabels": []}},
        {k: v for k, v in result.items() if k != "original_width"} | {"value": whole},
    ]
    tasks[0]["annotations"][0]["result"] = [*without, result | {"value": whole}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (tmp_path / "a.xml").write_text(
        "<annotations><image name='a.png' width='10' height='10'>"
        + "<box xtl='1' ytl='1' xbr='3' ybr='3'/>" * 2
        + "<box label='cat' xtl='1' ytl='1' xbr='3' ybr='3'/></image></annotations>"
    )
    for name in ("a.json", "tasks.json", "a.xml", ""):
        labels = read_labels(
            tmp_path / name, format="auto" if name else "yolo", images=tmp_path / "photos"
        )
        assert [len(file.regions) for file in labels.images] == [1]
        assert len(labels.skipped) == 2
        with pytest.raises(MaskError, match="2 of the labels cannot be used"):
            read_labels(
                tmp_path / name,
                format="auto" if name else "yolo",
                images=tmp_path / "photos",
                strict=True,
            )


def test_a_label_file_that_cannot_be_read_costs_only_itself(tmp_path):
    (tmp_path / "classes.txt").write_text("cat")
    shapes = [{"label": "cat", "points": [[1, 1], [3, 1], [3, 3], [1, 3]]}]
    content = {"shapes": shapes, "imagePath": "b.png", "imageHeight": 10, "imageWidth": 10}
    for name in "abc":
        Image.new("RGB", (10, 10)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0.0 0 0 1 0 1 1\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps(content))
    (tmp_path / "notes.json").write_text('{"author": "me"}')
    yolo = read_labels(tmp_path, format="yolo", images=tmp_path)
    assert [file.path for file in yolo.labelled] == ["a.png", "c.png"]
    assert ["b.txt: this is not a text" in sentence for sentence in yolo.skipped] == [True]
    (tmp_path / "a.json").write_text("[]")
    for text in ("[]", "{"):
        (tmp_path / "a.json").write_text(text)
        labelme = read_labels(tmp_path, format="labelme", images=tmp_path)
        for path in tmp_path.glob("*.txt"):
            path.unlink()
        assert read_labels(tmp_path, images=tmp_path) == labelme
        assert [file.path for file in labelme.labelled] == ["b.png"]
        assert [name in s for name, s in zip(("a.json", "notes"), labelme.skipped, strict=True)]
    (tmp_path / "b.json").unlink()
    with pytest.raises(UsageError, match=r"a\.json: this is not valid JSON"):
        read_labels(tmp_path, format="labelme", images=tmp_path)


def test_boxes_are_masks_only_where_it_is_asked_for(tmp_path):
    path = coco_file(tmp_path, {"segmentation": []}, {}, {"segmentation": [[2, 3, 4, 5]]})
    assert all("--boxes as-masks" in sentence for sentence in read_labels(path).skipped)
    labels = read_labels(path, boxes="as-masks")
    assert [r.mask for r in labels.images[0].regions] == [pack(box(2, 3, 4, 5))] * 3
    assert labels.skipped == ()
    path = coco_file(tmp_path, {"bbox": None}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 0, 3]})
    assert len(read_labels(path, boxes="as-masks").skipped) == 3


def test_yolo_boxes_are_masks_only_where_it_is_asked_for(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.4 0.55 0.4 0.5\n0 0 0 1 0 1 1\n")
    (tmp_path / "classes.txt").write_text("cat")
    labels = read_labels(tmp_path, images=tmp_path)
    [sentence] = labels.skipped
    assert "a.txt: line 1: this is a box without a mask" in sentence
    assert len(labels.images[0].regions) == 1
    regions = read_labels(tmp_path, images=tmp_path, boxes="as-masks").images[0].regions
    assert regions[0].mask == pack(box(2, 3, 4, 5))


@pytest.mark.parametrize("confidence", ["0", "0.912345", "1"])
def test_a_confidence_at_the_end_of_a_yolo_line_is_ignored(tmp_path, confidence):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    lines = ["0 0.4 0.55 0.4 0.5", "0 0.2 0.3 0.6 0.3 0.6 0.8 0.2 0.8", "0 0 0 1 0 1 1"]
    (tmp_path / "a.txt").write_text("\n".join(f"{line} {confidence}" for line in lines))
    (tmp_path / "classes.txt").write_text("cat")
    labels = read_labels(tmp_path, images=tmp_path, boxes="as-masks")
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert labels == read_labels(tmp_path, images=tmp_path, boxes="as-masks")
    assert labels.skipped == ()
    assert [r.mask for r in labels.images[0].regions[:2]] == [pack(box(2, 3, 4, 5))] * 2
    assert {region.score for region in labels.images[0].regions} == {None}


def test_a_flat_polygon_is_one(tmp_path):
    [file] = read_labels(coco_file(tmp_path, {"segmentation": SQUARE})).images
    assert file.regions[0].mask == pack(box(1, 1, 2, 2))


def test_parts_without_area_cost_nothing_where_others_have_one(tmp_path):
    labels = read_labels(coco_file(tmp_path, {"segmentation": [[1, 1, 2, 2], SQUARE, [5, 5]]}))
    assert labels.images[0].regions[0].mask == pack(box(1, 1, 2, 2))
    assert labels.skipped == ()


@pytest.mark.parametrize(("reach", "used"), [(0.0011, True), (0.09, True), (0.2, False)])
def test_what_reaches_a_little_over_the_frame_is_clipped(tmp_path, reach, used):
    width, height = 400, 200
    left, right, low = -reach * width, (1 + reach) * width, (1 + reach) * height
    shape = {"segmentation": [[left, 50, right, 50, right, low, left, low]]}
    labels = read_labels(coco_file(tmp_path, shape, size=(height, width)))
    if used:
        expected = box(0, 50, width, height - 50, size=(height, width))
        np.testing.assert_array_equal(labels.images[0].mask_of("cat"), expected)
    else:
        assert "lies outside the image of 400 x 200" in labels.skipped[0]


def test_where_nothing_is_left_the_reason_is_said(tmp_path):
    labels = read_labels(coco_file(tmp_path, {}, {}))
    with pytest.raises(UsageError, match=r"\(2 labels cannot be used, the first: .*annotation 1"):
        labels.by_class()


def test_a_mask_that_cannot_be_used_costs_only_itself(tmp_path):
    mask = pack(HOLED)
    names = ("a.png", "b.png", "c.png", "d.png")
    files = tuple(LabelledFile(name, 5, 7, (Region("cat", mask),)) for name in names)
    photos = save_images(Labels(("cat",), files), tmp_path / "photos")
    (tmp_path / "masks/cat").mkdir(parents=True)
    for name in (*names, "e.png"):
        Image.fromarray(HOLED).save(tmp_path / "masks/cat" / name)
    Image.new("L", (3, 3), 255).save(tmp_path / "masks/cat/b.png")
    (tmp_path / "masks/cat/c.png").write_bytes(b"no image")
    (photos / "d.png").write_bytes(b"no image")
    labels = read_labels(tmp_path / "masks", images=photos)
    assert [file.path for file in labels.labelled] == ["a.png"]
    for name, sentence in zip(("b", "c", "d", "e"), labels.skipped, strict=True):
        assert f"{name}.png: " in sentence


# Areas are areas, in every format.


def label_studio(folder, kind, value, size=(500, 1000)):
    """A task with one region."""
    kinds = kind if kind.endswith("labels") else f"{kind}labels"
    result = {
        "id": "r1",
        "type": kinds,
        "original_height": size[0],
        "original_width": size[1],
        "value": value | {kinds: ["cat"]},
    }
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]}
    path = folder / "tasks.json"
    path.write_text(json.dumps([task]))
    return path


@pytest.mark.parametrize("kind", ["rectangle", "labels"])
@pytest.mark.parametrize(
    ("rotation", "expected"),
    [(0, (200, 100, 300, 100)), (90, (100, 100, 100, 300)), (-90, (200, -200, 100, 300))],
)
def test_rectangles_of_label_studio_turn_about_their_top_left_corner(
    tmp_path, kind, rotation, expected
):
    value = {"x": 20, "y": 20, "width": 30, "height": 20, "rotation": rotation}
    labels = read_labels(label_studio(tmp_path, kind, value))
    left, top, width, height = expected
    if top < 0:  # far outside
        assert "lies outside" in labels.skipped[0]
        return
    mask = box(left, top, width, height, size=(500, 1000))
    np.testing.assert_array_equal(labels.images[0].mask_of("cat"), mask)


def inside(size, centre, radii, degrees):
    """The pixels whose centre lies in a turned ellipse, by its equation."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    angle = np.deg2rad(degrees)
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    return (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1


def nearly(mask, expected):
    """Equal but for pixels that the outline cuts."""
    return (mask ^ expected).sum() < 0.03 * expected.sum()


@pytest.mark.parametrize("rotation", [0, 30, 90])
def test_ellipses_of_label_studio_turn_about_their_centre(tmp_path, rotation):
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": rotation}
    [file] = read_labels(label_studio(tmp_path, "ellipse", value, (300, 600))).images
    assert nearly(file.mask_of("cat"), inside((300, 600), (300, 150), (120, 30), rotation))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("keypoint", {"x": 3, "y": 4, "width": 0.5}),
        ("vector", {"vertices": [{"x": 1, "y": 2}]}),
        ("rectangle", {"x": 3, "y": 4, "width": "a", "height": 3}),
        ("ellipse", {"x": 3, "y": 4, "radiusX": 1}),
        ("ellipse", {"x": 3, "y": 4, "radiusX": float("nan"), "radiusY": 1}),
    ],
)
def test_points_and_lines_of_label_studio_are_counted(tmp_path, kind, value):
    labels = read_labels(label_studio(tmp_path, kind, value))
    [sentence] = labels.skipped
    assert "task 0 (a.png): region r1: " in sentence
    assert labels.labelled == ()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("circle", [[50, 40], [80, 40]]), inside((100, 120), (50, 40), (30, 30), 0)),
        (
            ("rectangle", [[10, 20], [60, 20], [60, 50], [10, 50]]),
            box(10, 20, 50, 30, size=(100, 120)),
        ),
        (
            ("rotation", [[50, 19.5], [80.5, 50], [50, 80.5], [19.5, 50]]),
            np.abs(np.mgrid[0:100, 0:120] + 0.5 - 50).sum(axis=0) <= 30,
        ),
        (
            ("oriented_rectangle", [[10, 20], [60, 20], [60, 50], [10, 50]]),
            box(10, 20, 50, 30, size=(100, 120)),
        ),
    ],
)
def test_areas_of_labelme(tmp_path, shape, expected):
    kind, points = shape
    shapes = [
        {"label": "cat", "shape_type": kind, "points": points},
        {"label": "cat", "shape_type": "point", "points": [[1, 1]]},
        {"label": "cat", "shape_type": "line", "points": [[1, 1], [9, 9]]},
    ]
    content = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 100, "imageWidth": 120}
    (tmp_path / "a.json").write_text(json.dumps(content))
    labels = read_labels(tmp_path)
    assert nearly(labels.images[0].mask_of("cat"), expected)
    for sentence, words in zip(labels.skipped, ("1: a point is", "2: a line is"), strict=True):
        assert f"image 'a.png', shape {words} no area" in sentence


# Images that are not there.


@pytest.mark.parametrize("format", ["coco", "labelme"])
def test_images_that_are_not_there_are_listed_and_the_rest_is_used(tmp_path, format):
    regions = (Region("cat", pack(HOLED)),)
    names = ("a.png", "b.png", "c.png")
    labels = Labels(("cat",), tuple(LabelledFile(name, 5, 7, regions) for name in names))
    target = tmp_path / ("all.json" if format == "coco" else "all")
    write_labels(labels, target, format=format)
    photos = tmp_path / "photos"
    save_images(Labels(("cat",), (labels.images[1],)), photos)
    read = read_labels(target, images=photos)
    assert list(read.supports(photos)) == ["cat"]
    assert [file.path for file in read.labelled] == ["b.png"]
    assert [file.path for file in read.images] == ["a.png", "b.png", "c.png"]
    for name, sentence in zip(("a.png", "c.png"), read.skipped, strict=True):
        assert f"the image '{name}' is not in this folder" in sentence
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match=r"none of the 3 images .* \(the first is a\.png\)"):
        read_labels(target, images=tmp_path / "none")


def test_tasks_whose_image_is_not_there_are_listed(tmp_path):
    photos = save_images(simple(HOLED), tmp_path / "photos")
    tasks = [
        {"data": {"image": f"/data/upload/1/12345678-{name}.png"}} for name in ("photo", "gone")
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    labels = read_labels(tmp_path / "tasks.json", images=photos)
    assert [file.path for file in labels.images] == ["photo.png"]
    assert "the image 'gone.png' is not in this folder" in labels.skipped[0]
