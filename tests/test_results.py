"""The result objects: what they refuse, compute, draw and write."""

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from piclip.errors import OutputError, UsageError
from piclip.formats.predicted import merge_coco
from piclip.io.images import read_mask
from piclip.io.overlays import COLOURS, voc_palette
from piclip.results import Priors, Segmentation, class_map_at
from sentences import one_sentence


def make_priors(classes=2, grid=(3, 4)):
    values = np.random.default_rng(0).random((6, classes, *grid), dtype=np.float32)
    return Priors(*values)


def make(classes=("cat", "dog"), **changes):
    rng = np.random.default_rng(1)
    scores = rng.random((len(classes), 20, 30), dtype=np.float32)
    parts = {
        "class_names": classes,
        "class_map": np.where(scores.max(0) > 0.6, scores.argmax(0) + 1, 0).astype(np.uint8),
        "score_maps": scores,
        "priors": make_priors(len(classes)),
        "image": Image.new("RGB", (30, 20), (50, 60, 70)),
        "name": "a b",
    }
    return Segmentation(**(parts | changes))


def test_masks_scores_and_size():
    result = make()
    assert result.size == (20, 30)
    cat, dog = result.mask_of("cat"), result.mask_of("dog")
    np.testing.assert_array_equal(cat, result.class_map == 1)
    np.testing.assert_array_equal(dog, result.class_map == 2)
    np.testing.assert_array_equal(result.mask, cat | dog)
    assert cat.dtype == result.mask.dtype == np.bool_
    np.testing.assert_array_equal(result.score, np.maximum(*result.scores))
    with pytest.raises(UsageError, match="cat, dog"):
        result.mask_of("horse")


def test_ignored_pixels_are_in_no_mask():
    result = make(class_map=np.full((20, 30), 255, np.uint8))
    assert not result.mask.any()
    assert not result.mask_of("dog").any()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.85, 1.0])
def test_at_threshold(threshold):
    result = make()
    again = result.at_threshold(threshold)
    for y, x in np.ndindex(20, 30):
        cat, dog = result.scores[:, y, x]
        best = 1 if cat >= dog else 2
        assert again.class_map[y, x] == (best if max(cat, dog) >= threshold else 0)
    assert again.class_map.dtype == np.uint8
    assert again.scores is result.scores
    assert again.name == result.name


class AskedMaps:
    """Maps that are made when they are asked for, and who was."""

    def __init__(self, scores):
        self.scores, self.shape, self.asked = scores, scores.shape, []

    def __getitem__(self, index):
        self.asked.append(index)
        return self.scores[index].copy()


def test_maps_are_made_when_they_are_asked_for():
    plain = make()
    maps = AskedMaps(plain.scores)
    result = make(score_maps=maps, presence=np.array([0.1, 0.9], np.float32))
    again = result.at_threshold(0.6)
    assert maps.asked == [1]  # the other is not there
    np.testing.assert_array_equal(again.class_map == 2, plain.scores[1] >= np.float32(0.6))
    np.testing.assert_array_equal(again.score_of("dog"), plain.scores[1])
    np.testing.assert_array_equal(again.score, plain.score)
    assert maps.asked == [1, 1, 0, 1]
    np.testing.assert_array_equal(again.scores, plain.scores)
    assert again.scores is again.scores and again.scores.dtype == np.float32
    assert maps.asked == [1, 1, 0, 1, 0, 1]
    with pytest.raises(UsageError, match="cat, dog"):
        again.score_of("horse")


@given(
    arrays(np.float32, (3, 2, 4), elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
    st.sampled_from([0.0, 0.25, 0.3, 0.75, 1.0]),
    st.none() | arrays(np.float32, 3, elements=st.sampled_from([0, 0.5, 1])),
)
def test_the_class_map_against_a_plain_formula(scores, threshold, presence):
    expected = np.zeros(scores.shape[1:], np.uint8)
    there = [k for k in range(3) if presence is None or presence[k] >= 0.5]
    for place in np.ndindex(expected.shape):
        for k in sorted(there, key=lambda k: -scores[k][place])[:1]:
            expected[place] = k + 1 if scores[k][place] >= threshold else 0
    found = class_map_at(scores, threshold, presence)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan")])
def test_thresholds_outside_the_scores(threshold):
    with pytest.raises(UsageError, match="threshold"):
        make().at_threshold(threshold)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": ()},
        {"class_names": ("cat", "cat")},
        {"class_names": ("cat",)},
        {"class_map": np.zeros((20, 30), np.int64)},
        {"class_map": np.zeros((20, 30, 1), np.uint8)},
        {"class_map": np.zeros((30, 20), np.uint8)},
        {"class_map": np.full((20, 30), 3, np.uint8)},
        {"score_maps": np.zeros((2, 20, 30))},
        {"score_maps": np.full((2, 20, 30), 1.5, np.float32)},
        {"score_maps": np.full((2, 20, 30), np.nan, np.float32)},
        {"score_maps": np.zeros((20, 30), np.float32)},
        {"score_maps": AskedMaps(np.zeros((2, 30, 20), np.float32))},
        {"priors": make_priors(1)},
        {"image": Image.new("RGB", (20, 30))},
        {"name": ""},
        {"name": "a/b"},
        {"name": ".."},
    ],
)
def test_parts_that_do_not_belong_together(changes):
    with pytest.raises(UsageError) as error:
        make(**changes)
    one_sentence(error)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 3, 5), np.float32),
        np.zeros((2, 3, 4)),
        np.full((2, 3, 4), -0.1, np.float32),
        np.full((2, 3, 4), np.nan, np.float32),
        np.zeros((3, 4), np.float32),
    ],
)
@pytest.mark.parametrize("place", range(6))
def test_priors_are_checked(bad, place):
    values = list(np.zeros((6, 2, 3, 4), np.float32))
    values[place] = bad
    with pytest.raises(UsageError, match="prior"):
        Priors(*values)


def test_priors_that_are_not_there_have_no_map():
    one, two = np.zeros((2, 1, 3, 4), np.float32)
    assert list(Priors(one).maps()) == ["fused"]
    assert list(Priors(one, contrast=two).maps()) == ["fused", "contrast"]


def test_a_class_that_is_not_there_gets_no_pixel():
    scores = np.array([[[0.9, 0.4]], [[0.8, 0.7]]], np.float32)
    presence = np.array([0.3, 0.6], np.float32)
    result = make(
        score_maps=scores,
        class_map=np.zeros((1, 2), np.uint8),
        presence=presence,
        priors=None,
        image=None,
    )
    for least, expected in ((0.5, [2, 2]), (0.3, [1, 2]), (0, [1, 2]), (0.7, [0, 0])):
        found = result.at_threshold(0.5, min_presence=least).class_map
        np.testing.assert_array_equal(found, [expected])
        np.testing.assert_array_equal(class_map_at(scores, 0.5, presence, least), [expected])
    np.testing.assert_array_equal(result.at_threshold(0.5).class_map, [[2, 2]])
    np.testing.assert_array_equal(class_map_at(scores, 0.5), [[1, 2]])
    with pytest.raises(UsageError, match="presence must be between 0 and 1"):
        result.at_threshold(0.5, min_presence=-1)
    with pytest.raises(UsageError, match="presence has the shape"):
        make(presence=presence[:1])


def test_overlay_has_the_images_size_and_colours():
    result = make(("cat",), class_map=np.pad(np.ones((12, 22), np.uint8), 4))
    overlay = result.overlay(alpha=1.0)
    assert (overlay.mode, overlay.size) == ("RGB", (30, 20))
    assert overlay.getpixel((15, 10)) == COLOURS[0]
    assert overlay.getpixel((0, 0)) == (50, 60, 70)
    with pytest.raises(UsageError, match="alpha"):
        result.overlay(alpha=2)
    with pytest.raises(UsageError, match="does not hold its image"):
        make(image=None).overlay()


@pytest.mark.parametrize("with_image", [True, False])
def test_notebook_picture_is_a_small_png(with_image):
    size = (1000, 1600)
    image = Image.new("RGB", (1600, 1000)) if with_image else None
    result = make(
        ("cat",),
        score_maps=np.zeros((1, *size), np.float32),
        class_map=np.ones(size, np.uint8),
        image=image,
    )
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert (shown.format, shown.size) == ("PNG", (800, 500))
        assert np.asarray(shown).max() > 0
    with Image.open(io.BytesIO(make()._repr_png_())) as shown:
        assert shown.size == (30, 20)


def test_repr_is_short():
    result = make(
        class_map=np.repeat([[1], [2], [0], [0]], [5, 5, 5, 5], 0).repeat(30, 1).astype("u1")
    )
    assert repr(result) == "Segmentation('a b', 20 x 30, cat 25.0%, dog 25.0%)"
    assert repr(result.priors) == "Priors(classes=2, grid=3 x 4)"


def test_save_one_class(tmp_path):
    result = make(("зебра",))
    paths = result.save(tmp_path / "out", overlay=True)
    assert paths == {
        "mask": tmp_path / "out" / "a b.png",
        "overlay": tmp_path / "out" / "overlays" / "a b.png",
    }
    with Image.open(paths["mask"]) as file:
        assert file.mode == "L"
        np.testing.assert_array_equal(np.asarray(file), result.mask * 255)
    np.testing.assert_array_equal(read_mask(paths["mask"], size=result.size), result.mask)
    with Image.open(paths["overlay"]) as file:
        np.testing.assert_array_equal(np.asarray(file), np.asarray(result.overlay()))


def test_save_several_classes(tmp_path):
    result = make()
    class_map = result.class_map.copy()
    class_map[0, 0] = 255
    paths = make(class_map=class_map).save(str(tmp_path))
    assert list(paths) == ["mask"]
    with Image.open(paths["mask"]) as file:
        assert file.mode == "P"
        assert file.getpalette() == voc_palette()
        np.testing.assert_array_equal(np.asarray(file), class_map)
    assert [path.name for path in tmp_path.iterdir()] == ["a b.png"]


def test_save_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        make().save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_under_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputError, match="name is too long"):
        make().save(tmp_path, name="x" * 300)


def test_no_result_replaces_another_unasked(tmp_path):
    first, other = make(source="x/1.jpg", name="1"), make(source="y/1.jpg", name="1")
    before = first.save(tmp_path)["mask"].read_bytes()
    for result in (first, other):
        with pytest.raises(UsageError, match=r"1\.png is there already") as error:
            result.save(tmp_path)
        assert one_sentence(error)
    assert other.save(tmp_path, name="y-1")["mask"] == tmp_path / "y-1.png"
    with pytest.raises(UsageError, match=r"y-1\.png is there already"):
        make(name="2").save(tmp_path, overlay=True, name="y-1")
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "3.png").write_bytes(b"kept")
    with pytest.raises(UsageError, match=r"3\.png is there already"):
        make(name="3").save(tmp_path, overlay=True)
    assert not (tmp_path / "3.png").exists()
    assert (tmp_path / "1.png").read_bytes() == before
    changed = make(name="1", class_map=np.zeros((20, 30), np.uint8))
    changed.save(tmp_path, overwrite=True)
    assert (tmp_path / "1.png").read_bytes() != before


def test_coco_keeps_the_files_name_and_its_lists_can_be_joined():
    results = [make(source=f"{folder}/1.JPG", name="1") for folder in "xy"]
    files = [result.to_coco() for result in results]
    assert [file["images"][0]["file_name"] for file in files] == ["1.JPG", "1.JPG"]
    assert files[0] == results[0].to_coco()
    annotations = [annotation for file in files for annotation in file["annotations"]]
    assert len(annotations) > 4
    assert len({annotation["id"] for annotation in annotations}) == len(annotations)
    assert max(annotation["id"] for annotation in annotations) < 2**53
    images = {file["images"][0]["id"]: file for file in files}
    assert len(images) == 2
    for number, file in images.items():
        assert {annotation["image_id"] for annotation in file["annotations"]} == {number}


def test_many_results_become_one_coco_file():
    results = [
        make(source="/data/photos/x/1.jpg", name="1"),
        make(("dog", "cow"), source="/data/photos/y/1.jpg", name="1"),
        make(source="/data/photos/2.png", name="2"),
    ]
    content = merge_coco(iter(results), instances=False)
    assert [image["file_name"] for image in content["images"]] == ["x/1.jpg", "y/1.jpg", "2.png"]
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [
        (1, "cat"),
        (2, "dog"),
        (3, "cow"),
    ]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5, 6]
    found = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
    assert found == [(1, 1), (1, 2), (2, 2), (2, 3), (3, 1), (3, 2)]
    areas = [int(r.mask_of(name).sum()) for r in results for name in r.class_names]
    assert [a["area"] for a in content["annotations"]] == areas
    assert merge_coco([make(name="00000")])["images"][0]["file_name"] == "00000"
    with pytest.raises(UsageError, match="twice"):
        merge_coco([make(name="00000"), make(name="00000")])
    with pytest.raises(UsageError, match="no result"):
        merge_coco([])
