"""Roots of VOC and of CVAT's "Segmentation mask 1.1", and the background by any name."""

import numpy as np
import pytest
from format_builders import simple
from PIL import Image

from piclip.errors import UsageError
from piclip.formats import LabelledFile, Labels, Region, detect, read_labels, write_labels
from piclip.io.overlays import voc_palette

MAP = np.array([[0, 1, 1, 2], [0, 1, 255, 2], [0, 0, 0, 2]], np.uint8)
COLOURS = {0: (0, 0, 0), 1: (250, 50, 83), 2: (52, 209, 183), 255: (224, 224, 192)}


def coloured(class_map, colours=COLOURS):
    picture = np.zeros((*class_map.shape, 3), np.uint8)
    for index, colour in colours.items():
        picture[class_map == index] = colour
    return Image.fromarray(picture)


def palette(class_map):
    image = Image.fromarray(class_map, "L").convert("P")
    image.putpalette(voc_palette())
    return image


def voc_root(root, image, photos=True):
    """One photo, its maps of classes and of objects."""
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a\n")
    image.save(root / "SegmentationClass/a.png")
    coloured(np.ones_like(MAP)).save(root / "SegmentationObject/a.png")
    if photos:
        Image.new("RGB", (4, 3)).save(root / "JPEGImages/a.jpg")
    return root


def check(labels, path="a.jpg", names=("cat", "dog")):
    [file] = labels.images
    assert (file.path, labels.class_names, labels.skipped) == (path, names, ())
    for index, name in enumerate(("cat", "dog"), start=1):
        np.testing.assert_array_equal(file.mask_of(name), index == MAP)
    np.testing.assert_array_equal(file.ignore.to_array(), MAP == 255)


LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:52,209,183::\n"
)


def test_a_root_of_cvat_is_read_by_its_colours(tmp_path):
    root = voc_root(tmp_path / "cvat", coloured(MAP))
    (root / "labelmap.txt").write_text(LABELMAP)
    assert detect(root) == detect(root / "SegmentationClass") == "voc"
    check(read_labels(root))
    check(read_labels(root, images=root), "JPEGImages/a.jpg")
    check(read_labels(root / "SegmentationClass", images=root / "JPEGImages"))
    check(read_labels(root, class_names=["dog", "cat"]), names=("dog", "cat"))
    with pytest.raises(UsageError, match="the class 'dog' is unknown"):
        read_labels(root, class_names=["cat"])


def test_the_background_may_have_a_colour_and_any_line(tmp_path):
    root = voc_root(tmp_path / "cvat", coloured(MAP, COLOURS | {0: (0, 128, 0)}))
    (root / "labelmap.txt").write_text("cat:250,50,83::\nBackground:0,128,0::\ndog:52,209,183::\n")
    check(read_labels(root))


def test_gray_maps_of_cvat_hold_the_lines_of_the_labelmap(tmp_path):
    gray = np.choose(np.minimum(MAP, 3), [1, 0, 2, 255]).astype(np.uint8)  # cat is line 0
    root = voc_root(tmp_path / "cvat", Image.fromarray(gray))
    (root / "labelmap.txt").write_text("cat:250,50,83::\nbackground:0,0,0::\ndog:52,209,183::\n")
    check(read_labels(root))


def test_bad_colours_are_said(tmp_path):
    root = voc_root(tmp_path / "cvat", coloured(MAP, COLOURS | {2: (1, 2, 3)}))
    (root / "labelmap.txt").write_text(LABELMAP)
    assert "a.png: the class map holds colours" in read_labels(root).skipped[0]
    assert "#010203" in read_labels(root).skipped[0]
    for text, words in (
        ("cat:1,2::\n", "'name:red,green,blue::' was expected"),
        ("cat:1,2,300::\n", "'name:red,green,blue::' was expected"),
        ("cat:1,2,3::\ndog:1,2,3::\n", "two classes have one colour"),
    ):
        (root / "labelmap.txt").write_text(text)
        with pytest.raises(UsageError, match=words):
            read_labels(root)


@pytest.mark.parametrize(
    "first",
    [
        *("background", "_background_", "__background__", "Background", "BACKGROUND", "bg", None),
        "__ignore__\n_background_",
    ],
)
def test_a_root_of_voc_with_the_background_by_any_name(tmp_path, first):
    root = voc_root(tmp_path / "voc", palette(MAP))
    (root / "class_names.txt").write_text("\n".join(filter(None, [first, "cat", "dog"])))
    assert detect(root) == "voc"
    check(read_labels(root))


def test_a_root_of_voc_without_names_asks_for_them(tmp_path):
    root = voc_root(tmp_path / "voc", palette(MAP))
    assert detect(root) == "voc"
    with pytest.raises(UsageError, match="what the class indices mean is not said"):
        read_labels(root)
    check(read_labels(root, class_names=["cat", "dog"]))


def test_names_beside_the_maps_say_which_index_is_which(tmp_path):
    root = voc_root(tmp_path / "voc", palette(MAP))
    (root / "class_names.txt").write_text("cat\ndog\n")
    check(read_labels(root, class_names=["dog", "cat"]), names=("dog", "cat"))


@pytest.mark.parametrize("name", ["background", "_background_", "__ignore__", "bg"])
def test_a_class_that_is_called_as_the_background_is_kept(tmp_path, name):
    region = simple(MAP == 1).images[0].regions[0]
    labels = Labels((name,), (LabelledFile("a.png", 3, 4, (Region(name, region.mask),)),))
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    write_labels(labels, tmp_path / "out", format="voc")
    assert read_labels(tmp_path / "out", images=tmp_path).class_names == (name,)
