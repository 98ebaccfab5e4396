"""LVIS-92i on hand-made files of Matcher's layout."""

import numpy as np
import pytest
from lvis_files import (
    HEIGHT,
    NUMBERS,
    WIDTH,
    annotation,
    content,
    make_lvis,
    record,
    write,
)
from trees import runs

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView, base_class_map
from piclip.datasets.protocols import OURS, PFENET
from piclip.errors import DatasetError, ImageError, UsageError
from sentences import one_sentence


@pytest.fixture
def root(tmp_path):
    return make_lvis(tmp_path)


def inside(outline):
    """Pixels whose centre an outline goes around, one by one, by the even-odd rule."""
    corners = list(zip(outline[::2], outline[1::2], strict=True))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for row, column in np.ndindex(HEIGHT, WIDTH):
        y, x = row + 0.5, column + 0.5
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                mask[row, column] ^= True
    return mask


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_folds_are_every_tenth_category_of_the_files_order(root, protocol):
    write(root, "val", content("val"), protocol)
    dataset = open_dataset("lvis-92i", root)
    assert dataset.folds() == 10 and len(dataset.class_names) == 30
    for fold in range(10):
        # 21 categories make two classes of each fold; the last category is in none.
        numbers = sorted(NUMBERS[fold + 10 * turn] for turn in range(2))
        names = [f"thing_{number}_(food)" for number in numbers]
        assert [dataset.class_names[index] for index in dataset.novel_classes(fold)] == names
    assert dataset.synonyms["thing_7_(food)"] == ("thing 7 food", "it")
    with pytest.raises(DatasetError, match="has 1 categories of more than 3 images, too few"):
        open_dataset("lvis-92i", root, shots=3)


def test_each_class_has_its_own_mask_where_they_overlap(root):
    shown = content("val")
    key = next(iter(shown[7]))
    shown[7][key] = record(key, annotation(7, (1, 2)), annotation(7, (3, 4)))
    runs_of_24 = np.zeros((HEIGHT, WIDTH), dtype=bool)
    runs_of_24[4:9, 2:9] = True
    coded = {"size": [HEIGHT, WIDTH], "counts": runs(runs_of_24)}
    shown[24][key] = record(key, {"segmentation": coded})
    write(root, "val", shown)
    dataset = open_dataset("lvis-92i", root)
    sample = dataset.sample(key)
    expected = {7: np.zeros_like(runs_of_24)} | {
        number: inside(images[key]["annotations"][0]["segmentation"][0])
        for number, images in shown.items()
        if key in images and number not in (7, 24)
    }
    for box in ((1, 2), (3, 4)):
        expected[7] |= inside(annotation(7, box)["segmentation"][0])
    expected[24] = runs_of_24
    assert (expected[7] & expected[24]).any() and len(expected) > 3
    for number in range(1, 31):
        nothing = np.zeros_like(runs_of_24)
        assert np.array_equal(sample.mask(number - 1), expected.get(number, nothing)), number
    assert np.array_equal(sample.class_map > 0, np.logical_or.reduce([*expected.values()]))
    row = dataset.keys("val").index(key)
    pixels = [expected[n].sum() if n in expected else 0 for n in range(1, 31)]
    assert dataset.presence("val")[row].tolist() == pixels
    assert dataset.shows("val", 1)[row].tolist() == [count > 0 for count in pixels]
    most = max(pixels)
    assert dataset.shows("val", most)[row].tolist() == [count == most for count in pixels]


def test_opening_and_drawing_look_at_no_photograph_and_no_train_file(root):
    (root / "lvis_train.pkl").unlink()
    for file in (root / "coco" / "val2017").iterdir():
        file.unlink()
    dataset = open_dataset("lvis-92i", root)
    view = FewShotView(dataset, fold=2, split="val", classes="novel")
    shown = content("val")
    for index in view.classes:
        assert sorted(view.images_of[index]) == sorted(shown[index + 1])
    for protocol in (OURS, PFENET):
        for episode in protocol.episodes(view, 510, 20, 2):
            for key in (episode.query, *episode.supports):
                assert key in shown[episode.class_index + 1]
    with pytest.raises(DatasetError, match=r"lvis_train.pkl .*no such file"):
        FewShotView(dataset, fold=2, split="train", classes="base")
    with pytest.raises(ImageError, match="000000000000"):
        dataset.sample("val2017/000000000000.jpg")
    with pytest.raises(UsageError, match=r"no image 'val2017/x\.jpg'"):
        dataset.sample("val2017/x.jpg")


def test_base_classes_never_show_a_novel_one(root):
    dataset = open_dataset("lvis-92i", root)
    novel = {index + 1 for index in dataset.novel_classes(0)}
    shown = content("train")
    with_novel = {key for number in novel for key in shown[number]}
    view = FewShotView(dataset, fold=0, split="train", classes="base")
    assert set(view.keys) == {k for images in shown.values() for k in images} - with_novel
    kept = FewShotView(dataset, fold=0, split="train", classes="base", novel_pixels="background")
    key = min(with_novel)
    assert any(dataset.sample(key).mask(number - 1).any() for number in novel)
    assert not any(kept.sample(key).mask(number - 1).any() for number in novel)
    base = next(number for number in NUMBERS if number not in novel and key in shown[number])
    assert np.array_equal(kept.sample(key).mask(base - 1), dataset.sample(key).mask(base - 1))
    with pytest.raises(UsageError, match="lie over one another"):
        base_class_map(kept, kept.sample(key).class_map)


def test_detectron2s_numbers_are_one_less(root):
    less = {number - 1: images for number, images in content("val").items()}
    write(root, "val", less)
    shifted, own = open_dataset("lvis-92i", root), None
    write(root, "val", content("val"))
    own = open_dataset("lvis-92i", root)
    assert [shifted.novel_classes(f) for f in range(10)] == [
        own.novel_classes(f) for f in range(10)
    ]
    assert np.array_equal(shifted.shows("val", 1), own.shows("val", 1))


def test_an_outline_between_the_centres_of_pixels_marks_the_one_it_begins_in(root):
    shown = content("val")
    key = next(iter(shown[7]))
    thin = {"segmentation": [[3.1, 5.1, 3.3, 5.1, 3.3, 5.4]]}
    shown[7][key] = record(key, thin)
    write(root, "val", shown)
    mask = open_dataset("lvis-92i", root).sample(key).mask(6)
    assert np.argwhere(mask).tolist() == [[5, 3]]


class Trap:
    def __reduce__(self):
        return (print, ("a pickle was executed",))


def hostile(*segmentations):
    """The val file, in which category 7 has these segmentations in an image."""
    shown = content("val")
    key = next(iter(shown[7]))
    shown[7][key] = record(key, *({"segmentation": shape} for shape in segmentations))
    return shown


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "does not hold annotations"),
        ({7: ["val2017/a.jpg"]}, "does not hold annotations"),
        ({7: {"val2017/a.jpg": {"boxes": []}}}, "does not hold annotations .*'annotations'"),
        ({7: {"val2017/a.jpg": {"annotations": []}}}, "no annotation of its category 7"),
        ({7: {"val2017/a.jpg": {"annotations": [{"bbox": []}]}}}, "'segmentation'"),
        ({31: {}}, "its category 31 has no name"),
        ({"cat": {}}, "does not hold annotations"),
        ({7: {3: record("a", annotation(7))}}, "does not hold annotations"),
        (hostile([1.0, 2.0]), "does not hold annotations"),
        (hostile(np.zeros((2, 2))), "arrays and other objects are not read"),
        ({7: Trap()}, "arrays and other objects are not read"),
        ({7: {"val2017/a.jpg": record("a", annotation(7))}}, "has 0 categories of more than 1"),
        ({1: {}}, "has 0 categories"),
    ],
)
def test_a_file_of_another_form_is_refused_and_never_executed(root, value, message, capsys):
    write(root, "val", value)
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset("lvis-92i", root)
    one_sentence(error)
    assert "executed" not in capsys.readouterr().out


def test_a_file_that_stands_for_more_than_it_holds_is_refused(root):
    outline = [1.0, 2.0, 3.0] * 1000
    shape = [outline] * 1000
    photographs = {f"{n}.jpg": record("a", {"segmentation": shape}) for n in range(1000)}
    write(root, "val", dict.fromkeys(range(1, 31), photographs))
    with pytest.raises(DatasetError, match="come back again and again"):
        open_dataset("lvis-92i", root)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([], "cover no pixel"),
        ([[]], "cover no pixel"),
        ({"size": [9, 9], "counts": [81]}, r"size is \[9, 9\] but the image's is \[12, 16\]"),
        ({"size": [HEIGHT, WIDTH], "counts": [5]}, "run lengths are damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 1_000_000}, "run lengths are damaged"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "cover no pixel"),
        ("polygon", "missing or no mask"),
        (7, "missing or no mask"),
        ([["a"] * 8], "the outline is damaged"),
        ([[0.0, 0.0, float("nan"), 0.0, 0.0, 5.0]], "no number or lies far outside"),
        ([[0.0, 0.0, 1e12, 0.0, 0.0, 5.0]], "no number or lies far outside"),
    ],
)
def test_a_damaged_annotation_is_one_sentence(root, shape, message):
    shown = hostile(shape)
    write(root, "val", shown)
    key = next(iter(shown[7]))
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset("lvis-92i", root).sample(key)
    one_sentence(error)
    assert key in str(error.value)


def test_what_is_missing_is_said(root):
    (root / "lvis_v1_train.json").write_text((root / "lvis_v1_val.json").read_text())
    for text, message in {
        '{"categories": [{"id": 1}]}': "does not name LVIS' categories",
        '{"categories": [{"id": 1, "name": " "}]}': "a category has no name",
        '{"categories": [7]}': "does not name LVIS' categories",
        "[" * 100_000: "does not name LVIS' categories",
        "{}": "has no name",
    }.items():
        (root / "lvis_v1_val.json").write_text(text)
        with pytest.raises(DatasetError, match=message) as error:
            open_dataset("lvis-92i", root)
        one_sentence(error)
    (root / "lvis_v1_val.json").unlink()
    assert open_dataset("lvis-92i", root).class_names[6] == "thing_7_(food)"
    (root / "lvis_v1_train.json").unlink()
    with pytest.raises(DatasetError, match=r"put LVIS' own lvis_v1_val.json there") as error:
        open_dataset("lvis-92i", root)
    one_sentence(error)
    with pytest.raises(UsageError, match="1 shot or more, not 0"):
        open_dataset("lvis-92i", root, shots=0)


def test_an_image_in_both_splits_is_refused(root):
    write(root, "train", content("val"))
    with pytest.raises(DatasetError, match="is in the val split too"):
        open_dataset("lvis-92i", root).keys("train")
