"""CVAT's XML, and what is said of files that are none of ours."""

import json
import zipfile

import numpy as np
import pytest
from format_builders import HOLED, save_images, simple
from PIL import Image

from piclip.errors import ImageError, UsageError
from piclip.formats import coco, detect, read_labels, write_labels
from piclip.io.documents import read_xml
from sentences import one_sentence

META = (
    "<meta><task><labels><label><name>cat</name></label><label><name>dog</name></label>"
    "</labels></task></meta>"
)


def xml(folder, *shapes, name="a.png", size=(40, 60), meta=META):
    path = folder / "annotations.xml"
    image = f'<image id="0" name="{name}" width="{size[1]}" height="{size[0]}">'
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{image}'
        f"{''.join(shapes)}</image></annotations>"
    )
    return path


def box(left, top, width, height, size=(40, 60)):
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


# The mask of CVAT's own documentation: a disc of 13 x 15 pixels.
RUNS = [
    3,
    5,
    7,
    7,
    5,
    9,
    3,
    11,
    2,
    11,
    2,
    12,
    1,
    12,
    1,
    26,
    1,
    12,
    1,
    12,
    2,
    11,
    3,
    9,
    5,
    7,
    7,
    5,
    3,
]


def by_rows(runs, size, left, top, width):
    """Pixel by pixel: run lengths row by row in a box."""
    mask, at = np.zeros(size, dtype=np.bool_), 0
    for number, run in enumerate(runs):
        for _ in range(run):
            mask[top + at // width, left + at % width] = number % 2 == 1
            at += 1
    return mask


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (
            '<polygon label="cat" points="10.0,5.0;30.0,5.0;30.0,25.0;10.0,25.0"/>',
            box(10, 5, 20, 20),
        ),
        ('<box label="cat" xtl="10" ytl="5" xbr="30" ybr="15"/>', box(10, 5, 20, 10)),
        (
            '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>',
            box(15, 5, 10, 20),
        ),
        (
            f'<mask label="cat" rle="{", ".join(map(str, RUNS))}" left="7" top="8" width="13" '
            f'height="15"/>',
            by_rows(RUNS, (40, 60), 7, 8, 13),
        ),
    ],
)
def test_shapes_of_cvat(tmp_path, shape, expected):
    path = xml(tmp_path, shape, '<tag label="dog"/>')
    assert detect(path) == detect(tmp_path) == "cvat"
    labels = read_labels(path)
    assert (labels.class_names, labels.skipped) == (("cat", "dog"), ())
    np.testing.assert_array_equal(labels.images[0].mask_of("cat"), expected)


def test_ellipses_of_cvat(tmp_path):
    shape = '<ellipse label="cat" cx="30" cy="20" rx="18" ry="9" rotation="90"/>'
    mask = read_labels(xml(tmp_path, shape)).images[0].mask_of("cat")
    y, x = np.mgrid[0:40, 0:60] + 0.5
    expected = ((x - 30) / 9) ** 2 + ((y - 20) / 18) ** 2 <= 1
    assert (mask ^ expected).sum() < 0.03 * expected.sum()


def test_shapes_of_cvat_that_cannot_be_used_are_listed(tmp_path):
    bad = [
        '<points label="cat" points="1,1"/>',
        '<polyline label="cat" points="1,1;5,5;9,9"/>',
        '<polygon label="cat" points="1,1;2"/>',
        '<mask label="cat" rle="3, 5" left="0" top="0" width="3" height="3"/>',
        '<mask label="cat" rle="0, 9" left="58" top="0" width="3" height="3"/>',
        '<mask label="cat" rle="x" left="0" top="0" width="3" height="3"/>',
        '<box label="cat" xtl="10"/>',
        '<box label="cat" xtl="1" ytl="1" xbr="3" ybr="3" rotation="nan"/>',
        '<ellipse label="cat" cx="5" cy="5" rx="nan" ry="2"/>',
    ]
    path = xml(tmp_path, *bad, '<box label="cat" xtl="10" ytl="5" xbr="30" ybr="15"/>')
    labels = read_labels(path)
    assert len(labels.images[0].regions) == 1
    for number, sentence in enumerate(labels.skipped):
        assert sentence.startswith(f"{path}: image 'a.png', shape {number} (")
    assert len(labels.skipped) == len(bad)


def test_an_image_of_cvat_that_is_too_large_costs_only_itself(tmp_path):
    shape = '<box label="cat" xtl="1" ytl="1" xbr="3" ybr="3"/>'
    path = xml(tmp_path, shape)
    large = f'<image id="1" name="b.png" width="10000" height="6000">{shape}</image>'
    path.write_text(path.read_text().replace("<image", f"{large}<image"))
    labels = read_labels(path)
    assert [file.path for file in labels.images] == ["a.png"]
    [sentence] = labels.skipped
    assert f"{path}: image 'b.png': the image has 60,000,000 pixels" in sentence
    with pytest.raises(ImageError, match="60,000,000 pixels"):
        read_labels(xml(tmp_path, shape, size=(6000, 10000)))


def test_images_of_cvat_are_found_by_the_end_of_their_path(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "b c.png")
    path = xml(tmp_path, '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>', name="x/b%20c.png")
    assert list(read_labels(path, images=tmp_path).supports(tmp_path)) == ["cat"]
    with pytest.raises(UsageError, match="read but not written; write coco"):
        write_labels(simple(HOLED), tmp_path / "out", format="cvat")


def test_xml_that_could_grow_is_not_read(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text(
        '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotations><image name="&a;"/></annotations>'
    )
    with pytest.raises(UsageError, match="declares a document type or entities") as error:
        read_labels(path)
    one_sentence(error)
    for text, words in (
        ("<a>" * 65, "64 levels"),
        ("<a><b></a>", "no valid XML"),
        ("", "no valid"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_xml(path)
    assert read_xml(xml(tmp_path)).tag == "annotations"


RESULT = {"image_id": 1, "category_id": 1, "segmentation": {}, "score": 0.5}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": [], "annotations": [{"id": 1, "caption": "x"}]}, "COCO's captions"),
        ([RESULT, RESULT], "a list of COCO results"),
        ([{"image": "/a.png", "annotation_id": 3, "annotator": 1}], "JSON-MIN"),
        ({"images": [], "annotations": [{"segments_info": []}]}, "panoptic"),
        ({"a.png123": {"filename": "a.png", "regions": []}}, "VGG Image Annotator"),
        ("<annotations><track id='0'/></annotations>", "CVAT for video"),
        ("<annotation><object/></annotation>", "Pascal VOC file of boxes"),
    ],
)
def test_files_that_are_none_of_ours_are_called_by_their_name(tmp_path, content, words):
    path = tmp_path / ("a.xml" if isinstance(content, str) else "a.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    for format in ("auto", "coco"):
        with pytest.raises(UsageError, match=rf"a\.(xml|json): this is .*{words}.*; ") as error:
            read_labels(path, format=format)
        one_sentence(error)
    with pytest.raises(UsageError, match=rf"a\.(xml|json) in it is .*{words}.*; ") as error:
        detect(tmp_path)
    one_sentence(error)


@pytest.mark.parametrize("format", ["coco", "labelstudio"])
def test_of_a_folder_with_one_file_that_file_is_asked_for(tmp_path, format):
    (tmp_path / "annotations").mkdir()
    write_labels(simple(HOLED), tmp_path / "annotations/a.json", format=format)
    with pytest.raises(UsageError, match=r"annotations/a\.json in it is .*; give that file itself"):
        detect(tmp_path)


def test_an_archive_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("a.json", "{}")
    with pytest.raises(UsageError, match="this is a ZIP archive; unpack it"):
        read_labels(tmp_path / "export.zip")


def test_our_own_files_are_not_taken_for_others(tmp_path):
    coco.write(simple(HOLED), tmp_path / "a.json")
    save_images(simple(HOLED), tmp_path)
    assert detect(tmp_path / "a.json") == "coco"
