"""Formats with a file per image: class maps, binary masks, YOLO text and labelme."""

import base64
import io
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from format_builders import HOLED, NAMES, labels, mask_of, pack, save_images, simple, unhurried
from hypothesis import given
from PIL import EpsImagePlugin, Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats import LabelledFile, Labels, Region, labelme, masks, read_labels, voc, yolo
from piclip.io.images import image_size
from piclip.io.overlays import voc_palette
from sentences import one_sentence


def strictly(name, source, **options):
    return read_labels(source, format=name, strict=True, **options)


def round_trip(module, given_labels):
    with tempfile.TemporaryDirectory() as name:
        root = save_images(given_labels, Path(name) / "images")
        module.write(given_labels, Path(name) / "out")
        return module.read(Path(name) / "out", images=root)


@unhurried
@given(labels())
def test_yolo_loses_nothing_of_plain_labels(given_labels):
    assert round_trip(yolo, given_labels) == ordered(given_labels)


@unhurried
@given(labels())
def test_labelme_loses_only_the_order_of_classes(given_labels):
    back = round_trip(labelme, given_labels)
    assert ordered(back).images == ordered(given_labels).images


@unhurried
@given(labels())
def test_binary_masks_keep_every_class_by_mask(given_labels):
    shown = [file for file in given_labels.images if file.regions]
    if not shown:
        return
    back = {file.path: file for file in round_trip(masks, given_labels).images}
    assert set(back) == {file.path for file in shown}
    for file in shown:
        for name in NAMES:
            np.testing.assert_array_equal(back[file.path].mask_of(name), file.mask_of(name))


@unhurried
@given(labels())
def test_class_maps_come_back_exactly(given_labels):
    first = replace(given_labels.images[0], ignore=pack(np.ones(given_labels.images[0].size)))
    given_labels = replace(given_labels, images=(first, *given_labels.images[1:]))
    back = {file.path: file for file in round_trip(voc, given_labels).images}
    assert len(back) == len(given_labels.images)
    for file in given_labels.images:
        expected = file.class_map(NAMES)
        np.testing.assert_array_equal(back[file.path].class_map(NAMES), expected)


def ordered(given_labels):
    return replace(given_labels, images=tuple(sorted(given_labels.images, key=lambda f: f.path)))


def test_class_maps_have_the_palette_of_voc(tmp_path):
    paths = voc.write(simple(HOLED), tmp_path)
    assert paths == [tmp_path / "class_names.txt", tmp_path / "photo.png"]
    with Image.open(paths[1]) as image:
        assert image.mode == "P"
        assert image.getpalette()[:768] == voc_palette()
        np.testing.assert_array_equal(np.asarray(image) == 1, HOLED)


def test_a_mask_without_object_pixels_says_that_the_class_is_not_there(tmp_path):
    mask = pack(HOLED)
    files = (
        LabelledFile("both.png", 5, 7, (Region("cat", mask),), absent=("big dog",)),
        LabelledFile("none.png", 5, 7, absent=("cat",)),
        LabelledFile("unknown.png", 5, 7),
    )
    root = save_images(Labels(NAMES, files), tmp_path / "images")
    masks.write(Labels(NAMES, files), tmp_path / "masks")
    back = masks.read(tmp_path / "masks", images=root, class_names=NAMES)
    assert back.images == files[:2]
    assert [path.name for path in back.unlabelled(root)] == ["unknown.png"]
    assert {name: len(shown) for name, shown in back.by_class().items()} == {"cat": 1}
    assert len(back.supports(root)["cat"]) == 1


def test_binary_masks_are_black_and_white(tmp_path):
    [path] = masks.write(simple(HOLED), tmp_path)
    assert path == tmp_path / "cat" / "photo.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), HOLED * 255)


def test_yolo_text_is_what_ultralytics_reads(tmp_path):
    [names, *_, text] = yolo.write(simple(mask_of(["##..", "##.."])), tmp_path)
    lists = "train: train.txt\nval: val.txt\n"
    assert names.read_text() == lists + "names:\n  0: cat\n  1: big dog\n"
    index, *numbers = text.read_text().split()
    corners = {tuple(c) for c in np.array(numbers, float).reshape(-1, 2)}
    assert index == "0"
    assert corners == {(0, 0), (0.5, 0), (0.5, 1), (0, 1)}


def test_yolo_lists_the_images_of_each_split_where_ultralytics_finds_their_labels(tmp_path):
    paths = [f"{'in/' * (k % 2)}a{k}.jpg" for k in range(11)]
    files = tuple(LabelledFile(path, 3, 4) for path in paths)
    yolo.write(Labels(NAMES, files), tmp_path)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data == {"train": "train.txt", "val": "val.txt", "names": {0: "cat", 1: "big dog"}}
    listed = {s: (tmp_path / data[s]).read_text().splitlines() for s in ("train", "val")}
    assert sorted(listed["train"] + listed["val"]) == sorted(f"./images/{path}" for path in paths)
    assert len(listed["val"]) == 2
    for line in listed["train"] + listed["val"]:
        image = str(tmp_path) + line.removeprefix(".")
        label = "/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
        assert Path(label).is_file()
    yolo.write(Labels(NAMES, files[::-1]), tmp_path)
    again = {s: (tmp_path / data[s]).read_text().splitlines() for s in ("train", "val")}
    assert {s: sorted(lines) for s, lines in again.items()} == {
        s: sorted(lines) for s, lines in listed.items()
    }


def test_yolo_keeps_the_splits_that_folders_name():
    paths = ["train/a.jpg", "valid/a.jpg", "Test/in/a.jpg", "other/val.jpg"]
    assert yolo.splits(paths) == {
        "train": ["train/a.jpg", "other/val.jpg"],
        "val": ["valid/a.jpg"],
        "test": ["Test/in/a.jpg"],
    }
    assert yolo.splits(["a.jpg"]) == {"train": ["a.jpg"], "val": ["a.jpg"], "test": []}
    assert yolo.splits([]) == {"train": [], "val": [], "test": []}


def test_labelme_keeps_the_flags_of_an_image_and_tells_presence(tmp_path):
    labelme.write(simple(HOLED), tmp_path)
    path = tmp_path / "photo.json"
    content = json.loads(path.read_text())
    assert (content["flags"], content["shapes"][0]["description"]) == ({}, "")
    flags = {"reviewed": True, "night": False}
    path.write_text(json.dumps(content | {"flags": flags}))
    found = labelme.read(tmp_path)
    told = replace(found.images[0], presence={"cat": 0.75})
    labelme.write(replace(found, images=(told,)), tmp_path / "again")
    again = json.loads((tmp_path / "again/photo.json").read_text())
    assert again["flags"] == flags
    assert again["shapes"][0]["description"] == "presence 0.7500"
    assert labelme.read(tmp_path / "again").images == found.images


def test_labelme_keeps_what_is_said_of_shapes_and_those_that_are_no_areas(tmp_path):
    square = [[1, 1], [3, 1], [3, 3], [1, 3]]
    said = {
        "flags": {"occluded": True},
        "description": "the left one",
        "group_id": 4,
        "difficult": True,
        "attributes": {"age": "old"},
        "kie_linking": [],
    }
    other = {"label": "cat", "shape_type": "polygon", "points": [[4, 0], [7, 0], [7, 2]]}
    point = {"label": "nose", "shape_type": "point", "points": [[2, 2]], "flags": {"x": True}}
    broken = {"label": "cat", "points": [[1, 1], [90, 90], [1, 90]], "difficult": False}
    square_shape = {"label": "cat", "shape_type": "polygon", "points": square, **said}
    path = labelme_file(tmp_path)
    content = json.loads(path.read_text()) | {"shapes": [square_shape, point, other, broken]}
    path.write_text(json.dumps(content | {"version": "2.4.4", "checked": True, "imageData": "x"}))
    labels = labelme.read(tmp_path)
    bars = pack(mask_of(["#.#....", *["......."] * 4]))
    [file] = labels.images
    proposed = Region("cat", bars, score=0.5)
    file = replace(file, regions=(*file.regions, proposed))
    labelme.write(replace(labels, images=(file,)), tmp_path / "again")
    again = json.loads((tmp_path / "again/photo.json").read_text())
    assert (again["version"], again["checked"], again["imageData"]) == ("2.4.4", True, None)
    assert again["shapes"][:2] == [point, broken]
    first, second, *parts = again["shapes"][2:]
    assert {key: first[key] for key in said if said[key]} == {k: v for k, v in said.items() if v}
    assert sorted(first["points"]) == sorted(square)
    assert (second["group_id"], second["flags"], second["description"]) == (None, {}, "")
    # Parts of one object, of another group than any that was there.
    assert len(parts) == 2 and len({part["group_id"] for part in parts} - {4, None}) == 1
    assert [r.mask for r in labelme.read(tmp_path / "again").images[0].regions] == [
        region.mask for region in file.regions
    ]


def test_yolo_leaves_crowds_out():
    crowd = Region("cat", pack(HOLED), crowd=True)
    file = LabelledFile("photo.png", *HOLED.shape, (crowd,))
    assert yolo.to_text(file, NAMES) == ""


def test_a_region_without_a_pixel_has_no_line_of_yolo():
    regions = Region("cat", pack(HOLED & False)), Region("cat", pack(HOLED))
    whole = LabelledFile("photo.png", *HOLED.shape, regions[1:])
    assert yolo.to_text(replace(whole, regions=regions), NAMES) == yolo.to_text(whole, NAMES)


def test_names_of_yolo_classes_come_from_either_file(tmp_path):
    save_images(simple(HOLED), tmp_path)
    (tmp_path / "x/labels").mkdir(parents=True)
    (tmp_path / "x/labels/photo.txt").write_text("1 0 0 1 0 1 1\n")
    for name, text in {"classes.txt": "cat\nbig dog\n\n", "data.yaml": "names: [a, b]"}.items():
        (tmp_path / name).write_text(text)
        found = yolo.read(tmp_path / "x/labels", images=tmp_path)
        assert found.class_names == {"classes.txt": NAMES, "data.yaml": ("a", "b")}[name]
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\n \nbig dog\n\n")
    with pytest.raises(UsageError, match=r"classes\.txt: line 2 is blank, .*; take"):
        yolo.read(tmp_path / "x/labels", images=tmp_path)
    (tmp_path / "data.yaml").write_text("names: {0: a, 2: b}")
    with pytest.raises(UsageError, match=r"data\.yaml: 'names' must list"):
        yolo.read(tmp_path / "x/labels", images=tmp_path)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("cat 0 0 1 0 1 1", MaskError, "in numbers was expected"),
        ("2 0 0 1 0 1 1", MaskError, "index 2 is unknown; there are 2"),
        ("-1 0 0 1 0 1 1", MaskError, "index -1 is unknown"),
        ("0 0.5 0.5 0.1 0.1", MaskError, "a box without a mask"),
        ("0 0 0 1", MaskError, "a polygon must be a list of pairs"),
        ("0 0 0 1 0 1 1 7", MaskError, "a polygon must be a list of pairs"),
        ("0 0.5 0.5 0.1 0.1 nan", MaskError, "a polygon must be a list of pairs"),
        ("0 0.5 0.5 0.1 0.1 0.9", MaskError, "a box without a mask"),
        ("0 0 0 3 0 1 1", MaskError, "lies outside the image of 7 x 5"),
        ("0 0 0 nan 0 1 1", MaskError, "is no number"),
        ("0 0 0 0 0 0 0", MaskError, "covers no pixel"),
    ],
)
def test_bad_yolo_lines_are_named(tmp_path, line, error, message):
    save_images(simple(HOLED), tmp_path)
    (tmp_path / "photo.txt").write_text(f"0 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(error, match=rf"photo\.txt: line 2: .*{message}"):
        strictly("yolo", tmp_path, images=tmp_path, class_names=NAMES)


@pytest.mark.parametrize("module", [masks, voc, yolo])
def test_missing_folders_and_images_are_named(tmp_path, module):
    module.write(simple(HOLED), tmp_path / "out")
    with pytest.raises(UsageError, match="need the folder of their images"):
        module.read(tmp_path / "out")
    with pytest.raises(ImageError, match=r"photo\.\w+: no image photo .* is in"):
        module.read(tmp_path / "out", images=tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        module.read(tmp_path / "none", images=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there are no"):
        module.read(tmp_path / "empty", images=tmp_path, class_names=["cat"])
    for suffix in ("png", "jpg"):
        Image.new("RGB", (7, 5)).save(tmp_path / f"photo.{suffix}")
    with pytest.raises(UsageError, match=r"two images have this name, photo\.jpg and photo\.png"):
        module.read(tmp_path / "out", images=tmp_path)


@pytest.mark.parametrize("module", [masks, voc, yolo, labelme])
def test_images_that_differ_in_their_suffix_only_cannot_be_written(tmp_path, module):
    files = tuple(LabelledFile(f"a.{suffix}", 5, 7) for suffix in ("jpg", "png"))
    with pytest.raises(UsageError, match="only their suffixes differ"):
        module.write(Labels(NAMES, files), tmp_path)


def test_bad_masks_are_named(tmp_path):
    root = save_images(simple(HOLED), tmp_path / "images")
    (tmp_path / "m").mkdir()
    mask = tmp_path / "m/photo.png"
    Image.new("L", (4, 4), 1).save(mask)
    for name in ("masks", "voc"):
        with pytest.raises(MaskError, match=r"photo\.png: the .* is 4 x 4 .* image is 7 x 5"):
            strictly(name, tmp_path / "m", images=root, class_names=["cat"])
    Image.new("L", (7, 5)).save(mask)
    [empty] = masks.read(tmp_path / "m", images=root, class_names=["cat"]).images
    assert (empty.regions, empty.absent, empty.labelled) == ((), ("cat",), True)
    Image.new("L", (7, 5), 9).save(mask)
    with pytest.raises(MaskError, match=r"photo\.png: the mask holds the unknown values 9"):
        strictly("voc", tmp_path / "m", images=root, class_names=["cat"])
    Image.new("RGB", (7, 5), 9).save(mask)
    with pytest.raises(MaskError, match=r"photo\.png: a class map has a palette"):
        strictly("voc", tmp_path / "m", images=root, class_names=["cat"])
    with pytest.raises(UsageError, match="one class name per line"):
        voc.read(tmp_path / "m", images=root)
    with pytest.raises(UsageError, match="which one class these masks show"):
        masks.read(tmp_path / "m", images=root)


def test_classes_that_are_no_folder_names_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="'a/b' cannot be the name of a folder"):
        masks.write(Labels(("a/b",), ()), tmp_path)


def labelme_file(tmp_path, **shape):
    content = {
        "shapes": [{"label": "cat", "shape_type": "polygon", "points": []} | shape],
        "imagePath": "..\\photos\\photo.png",
        "imageHeight": 5,
        "imageWidth": 7,
    }
    (tmp_path / "photo.json").write_text(json.dumps(content))
    return tmp_path / "photo.json"


def png_text(mask):
    data = io.BytesIO()
    Image.fromarray(mask).save(data, format="PNG")
    return base64.b64encode(data.getvalue()).decode()


def mask_shape(data):
    picture = base64.b64encode(data).decode()
    return {"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": picture}


def test_a_labelme_mask_never_starts_ghostscript(tmp_path, monkeypatch):
    started = []

    def ghostscript(*arguments):
        started.append(arguments)
        return Image.new("L", (2, 2), 255).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    data = io.BytesIO()
    Image.new("L", (2, 2), 255).save(data, format="EPS")
    path = labelme_file(tmp_path, **mask_shape(data.getvalue()))
    with pytest.raises(MaskError, match="the mask is damaged or too large") as error:
        strictly("labelme", path, class_names=NAMES)
    assert "convert it to PNG" in one_sentence(error)
    assert started == []


def test_a_labelme_mask_that_declares_too_many_pixels_is_not_decoded(tmp_path):
    data = io.BytesIO()
    Image.new("1", (9000, 9000), 1).save(data, format="PNG")
    header = data.getvalue()[:60]  # decoding it would fail for another reason
    for bomb in (data.getvalue(), header):
        path = labelme_file(tmp_path, **mask_shape(bomb))
        with pytest.raises(MaskError, match="81,000,000 pixels") as error:
            strictly("labelme", path, class_names=NAMES)
        one_sentence(error)


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000"])
def test_the_size_of_a_picture_comes_from_what_may_be_decoded(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (4, 4)).save(path, format=kind)
    with pytest.raises(ImageError, match="convert it to PNG"):
        image_size(path)


def test_a_folder_is_recognised_without_a_bomb_going_off(tmp_path):
    Image.new("P", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert not voc.recognise(tmp_path)


def test_labelme_shapes(tmp_path):
    triangle = [[0, 0], [4, 0], [4, 4], [0, 4]]
    expected = np.zeros((5, 7), bool)
    expected[:4, :4] = True
    dot = expected.copy()
    dot[:] = False
    dot[2:4, 3:5] = mask_of(["#.", "##"])
    for shape, mask in [
        ({"points": triangle}, expected),
        ({"shape_type": "rectangle", "points": [[4, 4], [0, 0]]}, expected),
        (
            {
                "shape_type": "mask",
                "points": [[3, 2], [4, 3]],
                "mask": png_text(mask_of(["#.", "##"])),
            },
            dot,
        ),
    ]:
        [file] = labelme.read(labelme_file(tmp_path, **shape)).images
        assert file.path == "photo.png"
        np.testing.assert_array_equal(file.mask_of("cat"), mask)


@pytest.mark.parametrize("elsewhere", ["/home/x/a.png", "C:\\x\\a.png", "../photos/a.png"])
def test_labelme_files_of_subfolders_keep_them_wherever_their_images_lay(tmp_path, elsewhere):
    (tmp_path / "train").mkdir()
    path = labelme_file(tmp_path / "train", points=[[0, 0], [4, 0], [4, 4]])
    content = json.loads(path.read_text()) | {"imagePath": elsewhere}
    path.write_text(json.dumps(content))
    [file] = labelme.read(tmp_path).images
    assert file.path == "train/a.png"


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ({"shape_type": "linestrip", "points": [[0, 0], [1, 1]]}, MaskError, "a linestrip is no"),
        ({"shape_type": ["polygon"]}, MaskError, "is no area"),
        ({"shape_type": "circle", "points": [[0, 0]]}, MaskError, "a circle needs its centre"),
        ({"shape_type": "circle", "points": [[0, 0], [math.nan, 1]]}, MaskError, "is no number"),
        ({"points": [[0, 0], [1, 1]]}, MaskError, "three corners"),
        ({"points": [[0, 0], [1, 1], [99, 1]]}, MaskError, "lies outside"),
        ({"points": [[0, 0], [1, 1], "x"]}, MaskError, "pairs of numbers"),
        ({"label": 3}, MaskError, "'label' is missing or no text"),
        ({"label": "cow"}, UsageError, "the class 'cow' is unknown; the classes are cat, big dog"),
        ({"shape_type": "rectangle"}, MaskError, "needs two or four corners"),
        ({"shape_type": "mask", "points": [[0, 0], [1, 1]]}, MaskError, "'mask' is missing"),
        (
            {"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "AAAA"},
            MaskError,
            "the mask is damaged",
        ),
        (
            {"shape_type": "mask", "points": [[3, 3], [9, 9]], "mask": png_text(HOLED)},
            MaskError,
            "the mask lies outside",
        ),
        (
            {"shape_type": "mask", "points": [[0, 0], [0, 0]], "mask": png_text(HOLED & False)},
            MaskError,
            "covers no pixel",
        ),
    ],
)
def test_bad_labelme_shapes_are_named(tmp_path, shape, error, message):
    path = labelme_file(tmp_path, **shape)
    with pytest.raises(error, match=rf"photo\.json: .*shape 0: .*{message}"):
        strictly("labelme", path, class_names=NAMES)
