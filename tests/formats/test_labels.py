"""The neutral form: what it refuses, and how it becomes supports and queries."""

from dataclasses import replace

import numpy as np
import pytest
from format_builders import HOLED, NAMES, mask_of, pack, save_images, simple
from PIL import ExifTags, Image

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats import LabelledFile, Labels, Region
from piclip.formats.image_files import relative_path
from piclip.io.images import image_size


def three_images():
    size = HOLED.shape
    both = (Region("cat", pack(HOLED)), Region("big dog", pack(~HOLED)))
    more = (Region("cat", pack(~HOLED)), Region("cat", pack(HOLED), crowd=True))
    return Labels(
        NAMES,
        (
            LabelledFile("a.png", *size, both),
            LabelledFile("b.png", *size),
            LabelledFile("c.png", *size, more),
        ),
    )


def test_labelled_images_become_supports_and_the_others_queries(tmp_path):
    labels = three_images()
    save_images(labels, tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "unheard of.png")
    supports = labels.supports(tmp_path)
    assert {name: [s.image for s in group] for name, group in supports.items()} == {
        "cat": [tmp_path / "a.png", tmp_path / "c.png"],
        "big dog": [tmp_path / "a.png"],
    }
    np.testing.assert_array_equal(supports["cat"][0].mask, HOLED)
    np.testing.assert_array_equal(supports["big dog"][0].mask, ~HOLED)
    assert supports["cat"][1].mask.all()
    assert labels.unlabelled(tmp_path) == [tmp_path / "b.png", tmp_path / "unheard of.png"]


def test_images_are_found_in_subfolders_and_by_their_bare_name(tmp_path):
    size = HOLED.shape
    region = (Region("cat", pack(HOLED)),)
    labels = Labels(
        ("cat",), (LabelledFile("x/a.png", *size, region), LabelledFile("far/b.png", *size, region))
    )
    for name in ("x/a.png", "x/c.png", "b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size[::-1]).save(tmp_path / name)
    found = [s.image for s in labels.supports(tmp_path)["cat"]]
    assert found == [tmp_path / "x/a.png", tmp_path / "b.png"]
    assert labels.unlabelled(tmp_path) == [tmp_path / "x/c.png"]


def test_images_of_a_prediction_may_be_asked_for_what_is_unlabelled(tmp_path):
    told = LabelledFile("a.png", *HOLED.shape, presence={"cat": 0.5}, extra={"flags": {}})
    save_images(Labels(("cat",), (told,)), tmp_path)
    assert Labels(("cat",), (told,)).unlabelled(tmp_path) == [tmp_path / "a.png"]


def test_missing_and_changed_images_are_named(tmp_path):
    labels = three_images()
    with pytest.raises(ImageError, match=r"the labelled image a\.png is not in this folder"):
        labels.supports(tmp_path)
    Image.new("RGB", (5, 9)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"a\.png: the image is 5 x 9 .* made for 7 x 5"):
        labels.supports(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png: this is not an image that can be read"):
        labels.supports(tmp_path)
    with pytest.raises(UsageError, match="None of the images is labelled"):
        Labels(NAMES, ()).supports(tmp_path)


def test_sizes_are_those_that_a_viewer_shows(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (8, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == (8, 5)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("./a.jpg", "a.jpg"),
        ("..\\images\\a.jpg", "a.jpg"),
        ("/home/x/a.jpg", "a.jpg"),
        ("C:\\x\\a.jpg", "a.jpg"),
    ],
)
def test_paths_never_lead_out_of_the_folder(text, path):
    assert relative_path(text) == path


def test_small_regions_lie_over_large_ones_in_the_class_map():
    whole, dot, unknown = mask_of(["##.", "##."]), mask_of(["...", "#.."]), mask_of(["..#", "#.#"])
    regions = (Region("big dog", pack(dot)), Region("cat", pack(whole)))
    file = LabelledFile("a", 2, 3, regions, ignore=pack(unknown))
    assert file.class_map(NAMES).tolist() == [[1, 1, 255], [2, 1, 255]]
    with pytest.raises(UsageError, match="at most 254 classes"):
        file.class_map(tuple(map(str, range(255))))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda f: Labels(("cat", "cat"), ()), UsageError, "the class 'cat' twice"),
        (lambda f: Labels(("cat", ""), ()), UsageError, "has no name"),
        (lambda f: Labels(("cat",), (f, f)), UsageError, "the image 'a.png' twice"),
        (lambda f: Labels(("dog",), (f,)), UsageError, r"a\.png: the class 'cat' is unknown.* dog"),
        (lambda f: Labels(("cat",), (f,), (1, 2)), UsageError, "2 category ids .* 1 classes"),
        (lambda f: Labels(("cat", "d"), (f,), (1, 1)), UsageError, "category id 1 twice"),
        (lambda f: LabelledFile("b.png", 3, 3, f.regions), MaskError, r"b\.png: a mask is 7 x 5"),
        (
            lambda f: LabelledFile("b.png", 3, 3, ignore=f.regions[0].mask),
            MaskError,
            r"b\.png: a mask is 7 x 5",
        ),
    ],
)
def test_ambiguous_labels_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(LabelledFile("a.png", *HOLED.shape, (Region("cat", pack(HOLED)),)))


def test_images_without_a_label_may_be_negatives_where_they_are_there(tmp_path):
    shown = simple(HOLED).images[0]
    empty, gone = (LabelledFile(f"{name}.png", 5, 7) for name in ("empty", "gone"))
    labels = Labels(NAMES, (shown, empty, gone))
    save_images(replace(labels, images=(shown, empty)), tmp_path)
    found = labels.with_empty_as_negatives(tmp_path)
    assert found.images == (shown, replace(empty, absent=NAMES), gone)
    assert found.unlabelled(tmp_path) == []
    assert labels.unlabelled(tmp_path) == [tmp_path / "empty.png"]
