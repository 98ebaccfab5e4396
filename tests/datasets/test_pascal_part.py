"""PASCAL-Part on hand-made files of Matcher's layout."""

import json

import numpy as np
import pytest
from pascal_part_files import HEIGHT, WIDTH, annotate, make_pascal_part, thing
from PIL import Image

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView, base_class_map
from piclip.datasets.protocols import OURS
from piclip.errors import DatasetError, ImageError, UsageError
from sentences import one_sentence


@pytest.fixture
def root(tmp_path):
    return make_pascal_part(tmp_path)


def change(root, edit):
    path = root / "VOCdevkit" / "VOC2010" / "all_obj_part_to_image.json"
    lists = json.loads(path.read_text())
    edit(lists)
    path.write_text(json.dumps(lists))


def test_a_fold_has_the_parts_of_its_objects(root):
    dataset = open_dataset("pascal-part", root)
    assert dataset.folds() == 4
    names = [[dataset.class_names[i] for i in dataset.novel_classes(fold)] for fold in range(4)]
    assert names == [
        ["dog+HEAD", "dog+TORSO", "bird+FACE"],
        ["tvmonitor+SCREEN"],
        ["person+HEAD", "person+LOWER_ARM"],
        ["aeroplane+WING"],
    ]
    said = [dataset.synonyms[name] for name in ("dog+HEAD", "tvmonitor+SCREEN", "person+LOWER_ARM")]
    assert said == [("dog head",), ("tv monitor screen",), ("person lower arm",)]


def test_a_sample_is_one_object_cut_out_by_its_box(root):
    first = thing(
        "dog", (4, 2, 14, 12), HEAD=[(3, 7, 5, 8), (6, 10, 10, 16)], TORSO=[(5, 9, 6, 12)]
    )
    others = thing("person", (0, 0, 9, 9), HEAD=[(1, 4, 1, 4)]), thing("dog", (0, 0, 9, 9))
    second = thing("dog", ("1", "0", "30", "20"), HEAD=[(0, 2, 0, 5)], EAR=[(0, 1, 0, 1)])
    annotate(root, "dog_val0", first, *others, second)
    dataset = open_dataset("pascal-part", root)
    keys = [key for key in dataset.keys("val") if key.startswith("dog_val0")]
    assert keys == ["dog_val0/0", "dog_val0/3"]
    sample = dataset.sample("dog_val0/0")
    head, torso = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    head[3:7, 5:8] = head[6:10, 10:16] = torso[5:9, 6:12] = True
    crop = np.s_[2:12, 4:14]
    assert np.array_equal(sample.mask(0), head[crop]) and np.array_equal(
        sample.mask(1), torso[crop]
    )
    assert (sample.mask(0) & sample.mask(1)).any() and not sample.mask(2).any()
    folder = root / "VOCdevkit" / "VOC2010" / "JPEGImages"
    photograph = np.asarray(Image.open(folder / "dog_val0.jpg"))
    assert np.array_equal(sample.image, photograph[crop])
    assert dataset.sample("dog_val0/3").image.shape == (20, 29, 3)
    row = dataset.presence("val")[dataset.keys("val").index("dog_val0/0")]
    assert row.tolist() == [head[crop].sum(), torso[crop].sum(), 0, 0, 0, 0, 0]
    with pytest.raises(UsageError, match="no image 'dog_val0/1'"):
        dataset.sample("dog_val0/1")


def test_images_count_for_the_classes_that_list_them(root):
    change(root, lambda lists: lists["animals"]["object"]["dog"]["part"]["HEAD"]["val"].pop())
    dataset = open_dataset("pascal-part", root)
    view = FewShotView(dataset, fold=0, split="val", classes="novel")
    assert view.images_of[0] == ("dog_val0/0", "dog_val1/0")
    assert view.images_of[1] == ("dog_val0/0", "dog_val1/0", "dog_val2/0")
    assert len(OURS.episodes(view, 0, 20, 1)) == 20
    base = FewShotView(dataset, fold=0, split="train", classes="base")
    assert {key.split("_")[0] for key in base.keys} == {"tvmonitor", "person", "aeroplane"}
    with pytest.raises(UsageError, match="lie over one another"):
        base_class_map(base, base.sample(base.keys[0]).class_map)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "does not hold objects"),
        ("[" * 100_000, "does not hold objects"),
        ('{"object": 7}', "does not hold objects"),
        ('{"object": [{"name": "dog", "parts": [{"name": ["dog"]}]}]}', "does not hold objects"),
        (
            json.dumps({"object": [thing("dog", (5, 1, 5, 9), HEAD=[(0, 2, 0, 5)])]}),
            "holds no pixel",
        ),
        (json.dumps({"object": [thing("dog", (-5, 1, 5, 9), HEAD=[(0, 2, 0, 5)])]}), "no pixel"),
        (json.dumps({"object": [thing("dog", ("x", 1, 5, 9), HEAD=[])]}), "does not hold objects"),
        (
            json.dumps({"object": [thing("dog", (1e999, 1, 5, 9), HEAD=[])]}),
            "does not hold objects",
        ),
    ],
)
def test_a_damaged_annotation_file_is_one_sentence(root, text, message):
    folder = root / "VOCdevkit" / "VOC2010" / "Annotations_Part_json_merged_part_classes"
    (folder / "dog_val1.json").write_text(text)
    dataset = open_dataset("pascal-part", root)
    with pytest.raises(DatasetError, match=message) as error:
        dataset.keys("val")
    one_sentence(error)
    assert len(dataset.keys("train")) == 3 * 5
    (folder / "dog_val1.json").unlink()
    with pytest.raises(DatasetError, match=r"dog_val1.json .*no such file"):
        dataset.keys("val")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [9, 9], "counts": "abc"}, r"size is \[9, 9\] but the image's is \[20, 30\]"),
        ({"size": [HEIGHT, WIDTH], "counts": "abc"}, "run lengths are damaged"),
        ({"size": [HEIGHT, WIDTH]}, "are missing"),
        ("text", "missing or no mask"),
    ],
)
def test_a_damaged_mask_is_one_sentence(root, mask, message):
    entry = thing("dog", (3, 1, 13, 11), HEAD=[(0, 2, 0, 5)])
    entry["parts"][0]["mask"].append(mask)
    annotate(root, "dog_val1", entry)
    dataset = open_dataset("pascal-part", root)
    with pytest.raises(DatasetError, match=message) as error:
        dataset.sample("dog_val1/0")
    one_sentence(error)


def test_a_box_outside_and_a_missing_photograph_are_said(root):
    annotate(root, "dog_val1", thing("dog", (3, 100, 13, 110), HEAD=[(0, 2, 0, 5)]))
    dataset = open_dataset("pascal-part", root)
    with pytest.raises(DatasetError, match="lies outside its photograph") as error:
        dataset.sample("dog_val1/0")
    one_sentence(error)
    (root / "VOCdevkit" / "VOC2010" / "JPEGImages" / "dog_val0.jpg").unlink()
    with pytest.raises(ImageError, match=r"dog_val0.jpg"):
        dataset.sample("dog_val0/0")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lists: lists.pop("indoor"), "'indoor'"),
        (lambda lists: lists.update(person=[]), "does not list images"),
        (lambda lists: lists["indoor"]["object"].clear(), "no part of indoor has images"),
        (
            lambda lists: lists["animals"]["object"]["dog"]["part"]["HEAD"].update(val=["../x"]),
            "'../x' is no name of a photograph",
        ),
        (
            lambda lists: lists["animals"]["object"]["dog"]["part"]["HEAD"].update(val=[7]),
            "does not list images",
        ),
    ],
)
def test_a_damaged_list_is_one_sentence(root, edit, message):
    change(root, edit)
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset("pascal-part", root)
    one_sentence(error)


def test_a_list_that_is_missing_or_nested_without_end_is_one_sentence(root):
    path = root / "VOCdevkit" / "VOC2010" / "all_obj_part_to_image.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="does not list images") as error:
        open_dataset("pascal-part", root)
    one_sentence(error)
    path.unlink()
    with pytest.raises(DatasetError, match="no such file"):
        open_dataset("pascal-part", root)
