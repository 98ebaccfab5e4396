"""YOLO roots as tools write them, and Roboflow's first category."""

import json

import pytest
from format_builders import mask_of
from PIL import Image

from piclip.errors import UsageError
from piclip.formats import coco, detect, read_labels

LINE = "1 0 0 0.5 0 0.5 1 0 1\n"
LEFT = mask_of(["##..", "##.."])
TWO = ("jpg", "txt")


def lay(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            (root / name).write_text(LINE)
        else:
            Image.new("RGB", (4, 2)).save(root / name)
    return root


def check(labels, *paths):
    assert labels.skipped == ()
    assert [file.path for file in labels.images] == list(paths)
    for file in labels.images:
        assert file.class_names == ("dog",)
        assert (file.mask_of("dog") == LEFT).all()


def test_a_root_of_roboflow(tmp_path):
    root = lay(tmp_path, "train/images/a.jpg", "train/labels/a.txt", "valid/images/a.jpg")
    lay(root, "valid/labels/a.txt")
    for name in ("README.dataset.txt", "README.roboflow.txt", "train/README.txt"):
        (root / name).write_text("Exported from somewhere\n")
    (root / "data.yaml").write_text("names: ['cat', 'dog']\ntrain: ../train/images\nnc: 2\n")
    assert detect(root) == detect(root / "data.yaml") == "yolo"
    for source in (root, root / "data.yaml"):
        check(read_labels(source, images=root), "train/images/a.jpg", "valid/images/a.jpg")
    check(read_labels(root / "train", images=root / "train/images"), "a.jpg")
    (root / "data.yaml").rename(root / "cats and dogs.YML")
    assert detect(root / "cats and dogs.YML") == "yolo"
    by_name = read_labels(root / "cats and dogs.YML", images=root)
    check(by_name, "train/images/a.jpg", "valid/images/a.jpg")
    assert detect(root) == "yolo"
    with pytest.raises(UsageError, match="what the class indices mean is not said"):
        read_labels(root, images=root)


def test_a_root_of_ultralytics(tmp_path):
    root = lay(tmp_path, "images/train/a.jpg", "labels/train/a.txt", "images/val/a.jpg")
    lay(root, "labels/val/a.txt", "labels/classes.txt")
    (root / "dataset.yaml").write_text("names: {'0': cat, '1': dog}")
    (root / "train.txt").write_text("images/train/a.jpg\n")
    assert detect(root) == "yolo"
    check(read_labels(root, images=root), "images/train/a.jpg", "images/val/a.jpg")
    check(read_labels(root, images=root / "images"), "train/a.jpg", "val/a.jpg")


def test_folders_of_texts_alone_are_told_by_their_lines(tmp_path):
    root = tmp_path / "root"
    for name in ("images/train/a.png", "images/train/b.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 10)).save(root / name)
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("")
    (root / "labels/train/b.txt").write_text("0 0 0 1 0 1 1\n")
    (root / "data.yaml").write_text("names: [cat]")
    for folder in ("labels", "labels/train"):
        assert detect(root / folder) == "yolo"
        labels = read_labels(root / folder, images=root / "images")
        assert [file.path for file in labels.labelled] == ["train/b.png"]
    (root / "labels/train/b.txt").write_text("7 cats and 2 dogs\n")
    with pytest.raises(UsageError, match="none of the label formats"):
        detect(root / "labels/train")


def test_texts_that_are_no_labels_beside_images_and_labels(tmp_path):
    root = lay(tmp_path, "a.jpg", "a.txt")
    (root / "classes.txt").write_text("cat\ndog\n")
    for name in ("README.txt", "readme.dataset.txt", "train.txt", "LICENSE.txt"):
        (root / name).write_text("./a.jpg\n")
    check(read_labels(root, images=root), "a.jpg")


def test_labels_may_be_called_as_lists_are(tmp_path):
    root = lay(tmp_path, *(f"{name}.{suffix}" for name in ("test-1", "val") for suffix in TWO))
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "train.txt").write_text("./test-1.jpg\n./val.jpg\n")
    (root / "test.txt").write_text("")
    assert detect(root) == "yolo"
    check(read_labels(root, images=root), "test-1.jpg", "val.jpg")


def test_names_in_a_file_say_which_index_is_which(tmp_path):
    root = lay(tmp_path, "a.jpg", "labels/a.txt")
    (root / "data.yaml").write_text("names: [cat, dog]")
    labels = read_labels(root, images=root, class_names=["dog", "cow"])
    assert labels.class_names == ("dog", "cow")
    check(labels, "a.jpg")
    with pytest.raises(UsageError, match=r"a\.txt: line 1: the class 'dog' is unknown"):
        read_labels(root, images=root, class_names=["cat"])


def test_points_of_poses_are_no_polygon(tmp_path):
    root = lay(tmp_path, "a.jpg")
    points = " ".join(["0.5 0.5 2"] * 16 + ["0 0 0"])
    (root / "a.txt").write_text(f"0 0.5 0.5 1 1 {points}\n")
    (root / "data.yaml").write_text("names: [person]\nkpt_shape: [17, 3]\n")
    with pytest.raises(UsageError, match=r"data\.yaml: these are labels of poses"):
        read_labels(root, images=root)


@pytest.mark.parametrize("corners", ["0 0 1.00019 0 1.00019 1 0 1", "-0.0011 0 1 0 1 1.0002 0 1"])
def test_corners_a_little_over_the_frame_are_clipped(tmp_path, corners):
    root = lay(tmp_path, "classes.txt")
    Image.new("RGB", (4000, 300)).save(root / "a.png")
    (root / "a.txt").write_text(f"0 {corners}\n")
    labels = read_labels(root, images=root, class_names=["1 0 0 0.5 0 0.5 1 0 1"])
    assert labels.skipped == ()
    assert labels.images[0].regions[0].mask.area == 4000 * 300


def roboflow(*categories):
    return {
        "images": [{"id": 0, "file_name": "a.jpg", "height": 2, "width": 4}],
        "categories": [
            {"id": number, "name": name, "supercategory": "none"} for number, name in categories
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
        ],
    }


@pytest.mark.parametrize(
    ("categories", "names"),
    [
        ([(0, "dog"), (1, "dog"), (2, "cat")], ("dog", "cat")),
        ([(1, "dog"), (0, "dog")], ("dog",)),
        ([(0, "animals"), (1, "dog")], ("animals", "dog")),
        ([(0, "cat"), (1, "dog"), (2, "cat")], ("cat", "dog")),
    ],
)
def test_an_unused_category_with_the_name_of_another_is_left_out(tmp_path, categories, names):
    (tmp_path / "a.json").write_text(json.dumps(roboflow(*categories)))
    labels = coco.read(tmp_path / "a.json")
    assert labels.class_names == names
    check(labels, "a.jpg")


def test_two_used_categories_of_one_name_are_refused(tmp_path):
    content = roboflow((1, "dog"), (2, "dog"))
    content["annotations"].append(content["annotations"][0] | {"id": 1, "category_id": 2})
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="the class 'dog' twice"):
        coco.read(tmp_path / "a.json")
