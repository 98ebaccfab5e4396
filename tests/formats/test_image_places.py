"""Which file a label's path means: subfolders, other computers' paths, doubtful names."""

import json
import unicodedata

import numpy as np
import pytest
from format_builders import HOLED, pack
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piclip.errors import UsageError
from piclip.formats import LabelledFile, Labels, Region, read_labels, write_labels
from piclip.formats.image_files import ImageFolder, find_image


def photos(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (7, 5)).save(root / name)
    return root


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("train/a.png", "x/train/a.png"),
        ("train\\a.png", "x/train/a.png"),
        ("C:\\data\\train\\a.png", "x/train/a.png"),
        ("/home/me/train/a.png", "x/train/a.png"),
        ("../train/./a.png", "x/train/a.png"),
        ("VAL/A.PNG", "val/a.png"),
        ("elsewhere/b%20c.png", "x/b c.png"),
        ("b c.png", "x/b c.png"),
        ("d%20e.png", "x/d%20e.png"),
        (unicodedata.normalize("NFD", "Gnädig.png"), "x/Gnädig.png"),
        ("root.png", "root.png"),
        ("nothing.png", None),
        ("", None),
        ("a\0.png", None),
    ],
)
def test_paths_are_compared_by_their_longest_common_ending(tmp_path, path, found):
    names = ("x/train/a.png", "val/a.png", "x/b c.png", "x/d%20e.png", "x/Gnädig.png", "root.png")
    root = photos(tmp_path, *names, "x/root.png", ".hidden/nothing.png", "__MACOSX/nothing.png")
    assert ImageFolder(root).find(path) == found
    assert find_image(root, path) == (None if found is None else root / found)


def test_doubtful_names_are_refused_with_both_paths(tmp_path):
    root = photos(tmp_path, "train/a.png", "val/a.png")
    for path in ("a.png", "test/a.png", "C:\\a.png"):
        with pytest.raises(UsageError, match=r"train/a\.png and val/a\.png"):
            ImageFolder(root).find(path)
    photos(tmp_path, "one/b.png")
    with pytest.raises(UsageError, match=r"one/b\.png: .* of x/b\.png or of y/b\.png"):
        ImageFolder(root).locate(["x/b.png", "y/b.png"])


def test_of_two_labels_for_one_file_the_nearer_has_it(tmp_path):
    root = photos(tmp_path, "dog/1.png")
    assert ImageFolder(root).locate(["cat/1.png", "dog/1.png"]) == {"dog/1.png": "dog/1.png"}


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.sampled_from("ef")),
        unique=True,
        min_size=1,
    ),
    st.sampled_from(["/home/me/", "C:\\x\\", "../", ""]),
)
def test_every_file_is_found_by_its_own_path_from_anywhere(tmp_path_factory, parts, prefix):
    names = ["/".join(three) + ".png" for three in parts]
    root = photos(tmp_path_factory.mktemp("p"), *names)
    slash = "\\" if "\\" in prefix else "/"
    written = {prefix + name.replace("/", slash): name for name in names}
    assert ImageFolder(root).locate(written) == written


def labelled(*names):
    region = (Region("cat", pack(HOLED)),)
    return Labels(("cat",), tuple(LabelledFile(name, 5, 7, region) for name in names))


@pytest.mark.parametrize("format", ["masks", "voc", "yolo", "coco", "labelme"])
def test_every_format_finds_images_of_the_same_name_in_subfolders(tmp_path, format):
    names = ("cat/1.png", "dog/1.png")
    root = photos(tmp_path / "photos", *(f"deep/{name}" for name in names))
    target = tmp_path / ("out.json" if format == "coco" else "out")
    write_labels(labelled(*names), target, format=format)
    labels = read_labels(target, format=format, images=root)
    assert sorted(file.path for file in labels.images) == ["deep/cat/1.png", "deep/dog/1.png"]
    for support in labels.supports(root)["cat"]:
        np.testing.assert_array_equal(support.mask, HOLED)


@pytest.mark.parametrize("format", ["masks", "voc", "yolo"])
def test_labels_may_lie_beside_their_images(tmp_path, format):
    names = ("1.jpg", "more/2.jpg")
    root = photos(tmp_path, *names)
    write_labels(labelled(*names), root, format=format)
    labels = read_labels(root, format=format, images=root)
    assert sorted(file.path for file in labels.images) == list(names)


def test_a_label_finds_its_image_whatever_the_case_of_its_name(tmp_path):
    root = photos(tmp_path / "photos", "IMG.JPG", "Photo.Png", "photo.png")
    (tmp_path / "masks/cat").mkdir(parents=True)
    for name in ("img.PNG", "photo.png"):
        Image.fromarray(HOLED).save(tmp_path / "masks/cat" / name)
    labels = read_labels(tmp_path / "masks", images=root)
    assert [file.path for file in labels.images] == ["IMG.JPG", "photo.png"]
    (tmp_path / "maps").mkdir()
    maps = Image.fromarray(HOLED.astype(np.uint8)).convert("P")
    maps.save(tmp_path / "maps/img.PNG")
    for format in ("auto", "voc"):
        [file] = read_labels(
            tmp_path / "maps", format=format, images=root, class_names=["cat"]
        ).images
        assert (file.path, file.class_names) == ("IMG.JPG", ("cat",))


@pytest.mark.parametrize("format", ["masks", "voc", "yolo"])
def test_a_label_may_be_called_as_its_image_with_a_suffix_more(tmp_path, format):
    root = photos(tmp_path / "photos", "x/1.JPG", "y/1.png", "2.b.jpg")
    names = ("x/1.jpg.png", "y/1.png.png", "2.b.png")
    write_labels(labelled(*names), tmp_path / "out", format=format)
    labels = read_labels(tmp_path / "out", format=format, images=root)
    assert sorted(file.path for file in labels.images) == ["2.b.jpg", "x/1.JPG", "y/1.png"]


def test_a_photo_is_read_though_its_original_lies_beside_it(tmp_path):
    root = photos(tmp_path / "photos", "1.jpg")
    (root / "1.heic").touch()
    write_labels(labelled("1.jpg"), tmp_path / "masks", format="masks")
    [file] = read_labels(tmp_path / "masks", images=root).images
    assert file.path == "1.jpg"


def test_folders_that_are_left_out_are_said(tmp_path):
    root = photos(tmp_path / "photos", "a/1.png", "b/2.png", "c/3.png", "masks/cat/1.png")
    Image.fromarray(HOLED).save(root / "masks/cat/1.png")
    labels = read_labels(root / "masks", images=root)
    assert labels.unlabelled(root) == []
    [note] = labels.notes
    assert "2 folders in which no image of the labels lies are left out, such as b;" in note
    assert read_labels(root / "masks", images=root / "a").notes == ()


def test_a_coco_file_of_another_computer(tmp_path):
    root = photos(tmp_path / "photos", "train/1.png", "val/1.png")
    write_labels(labelled("one.png", "two.png"), tmp_path / "a.json", format="coco")
    content = json.loads((tmp_path / "a.json").read_text())
    for image, name in zip(content["images"], ("train", "val"), strict=True):
        image["file_name"] = f"D:\\project\\{name}\\1.png"
    (tmp_path / "a.json").write_text(json.dumps(content))
    labels = read_labels(tmp_path / "a.json", images=root)
    assert [file.path for file in labels.images] == ["train/1.png", "val/1.png"]
