import json
import shutil

import numpy as np
import pytest

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.errors import DatasetError


@pytest.fixture(scope="module")
def mini(shared):
    return open_dataset("coco-json", shared / "data" / "coco-mini")


@pytest.fixture
def drawn(tmp_path):
    """One image 8 x 10: a large and a small box that overlap, a crowd under both, one category."""

    def box(x, y, width, height):
        return [[x, y, x + width, y, x + width, y + height, x, y + height]]

    def annotation(number, category, outline, **more):
        return {
            "id": number, "image_id": 1, "category_id": category, "segmentation": outline, **more
        }  # fmt: skip

    crowd = np.zeros((8, 10), dtype=np.uint8)
    crowd[:, 5:] = 1
    runs = [40, 40]  # column by column
    content = {
        "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.b.png", "height": 8, "width": 10}],
        "annotations": [
            annotation(1, 9, box(2, 2, 2, 2)),
            annotation(2, 4, box(1, 1, 6, 6)),
            annotation(3, 9, {"counts": runs, "size": [8, 10]}, iscrowd=1),
        ],
    }
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    return content, file


def open_drawn(file, **options):
    return open_dataset(
        "coco-json", file.parent, val_annotations=file.name, val_images=".", **options
    )


@pytest.mark.parametrize(
    "counts",
    [[40, 39], [40, 41], [40], [], [90, -10], [40, 40.0], "X1W1", "X1X1X1", "X", "X1~", "é"],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(drawn, counts):
    content, file = drawn
    content["annotations"][2]["segmentation"]["counts"] = counts
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"annotation 3: .*run lengths"):
        open_drawn(file).class_map("a.b")


def test_compressed_run_lengths_are_those_of_the_list(drawn):
    content, file = drawn
    plain = open_drawn(file).class_map("a.b")
    content["annotations"][2]["segmentation"]["counts"] = "X1X1"  # 40 is 8 + 32, then 1
    file.write_text(json.dumps(content))
    assert np.array_equal(open_drawn(file).class_map("a.b"), plain)


def test_smaller_objects_lie_on_top_and_crowds_below(drawn):
    dataset = open_drawn(drawn[1])
    assert dataset.class_names == ("dog", "cat") and dataset.keys("val") == ("a.b",)
    expected = np.zeros((8, 10), dtype=np.uint8)
    expected[:, 5:] = 255
    expected[1:7, 1:7] = 1
    expected[2:4, 2:4] = 2
    assert np.array_equal(dataset.class_map("a.b"), expected)
    assert dataset.presence("val")[dataset.keys("val").index("a.b")].tolist() == [32, 4]


def test_real_annotations_against_a_slow_formula(mini, shared):
    from pycocotools.coco import COCO

    reference = COCO(shared / "data" / "coco-mini" / "annotations" / "instances_val2014.json")
    crowds = reference.getImgIds(imgIds=[a["image_id"] for a in reference.anns.values()
                                         if a["iscrowd"]])[:2]  # fmt: skip
    others = sorted(set(reference.imgs) - set(crowds))[:4]
    categories = sorted(reference.cats)
    for image_id in (*crowds, *others):
        image = reference.imgs[image_id]
        best = np.full((image["height"], image["width"]), np.inf)
        expected = np.zeros(best.shape, dtype=np.uint8)
        for annotation in reference.imgToAnns[image_id]:
            mask = reference.annToMask(annotation).astype(bool)
            area = mask.sum() if not annotation["iscrowd"] else 1e9
            value = categories.index(annotation["category_id"]) + 1
            over = mask & (area <= best)
            best[over] = area
            expected[over] = 255 if annotation["iscrowd"] else value
        sample = mini.sample(image["file_name"].removesuffix(".jpg"))
        assert np.array_equal(sample.class_map, expected)
        assert sample.image.shape == (*expected.shape, 3)
    assert len(crowds) == 2


def test_the_splits_of_the_2014_layout(mini):
    assert len(mini.keys("val")) == 150 and len(mini.keys("train")) == 206
    assert mini.class_names[0] == "person" and len(mini.class_names) == 80
    assert mini.sample(mini.keys("train")[0]).image.ndim == 3


def test_a_train_key_is_known_before_the_train_split_is(shared):
    fresh = open_dataset("coco-json", shared / "data" / "coco-mini")
    assert fresh.class_map("COCO_train2014_000000000009").shape == (480, 640)


def test_faults_are_said_in_one_sentence(drawn):
    content, file = drawn
    with pytest.raises(DatasetError, match=r"instances_train2014.json: no such file"):
        open_drawn(file).keys("train")
    shutil.copy(file, file.parent / "train.json")
    with pytest.raises(DatasetError, match=r"a.b is in the val split too"):
        open_drawn(file, train_annotations="train.json").keys("train")

    def refused(message, **changes):
        file.write_text(json.dumps({**content, **changes}))
        with pytest.raises(DatasetError, match=message):
            open_drawn(file).presence("val")

    first = content["annotations"][0]
    refused("annotation 1: the category 7 is not among", annotations=[{**first, "category_id": 7}])
    refused("annotation 1: the image id 7 is not among", annotations=[{**first, "image_id": 7}])
    for far in (float("nan"), float("inf"), -1e9):
        outline = {**first, "segmentation": [[0, 0, far, 0, 5, 5]]}
        refused("no number or lies far outside", annotations=[outline])
    endless = {**first, "segmentation": {"size": [8, 10], "counts": "o" * 10**6}}
    refused("the run lengths are damaged", annotations=[endless])
    refused("image 0: .*'file_name' is missing", images=[{"id": 1}])
    refused("image 1: the id 1 is used twice", images=content["images"] * 2)
    refused("there is no class", categories=[], annotations=[])
    refused(
        "annotation 1: the mask's size is .*image's is",
        annotations=[{**first, "segmentation": {"counts": [4], "size": [2, 2]}}],
    )
    file.write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        open_drawn(file)


def test_a_view_of_classes_that_have_enough_images(mini, tmp_path):
    sparse = FewShotView(mini, fold=0, split="val", classes="novel")
    with pytest.raises(DatasetError, match="but 1-shot episodes need 2"):
        sparse.episode(0, 0, 1)
    view = FewShotView(mini, fold=0, split="val", classes="novel", minimum_images=2)
    assert all(len(images) >= 2 for images in view.images_of.values())
    episode = view.episode(0, 0, 1)
    assert episode.query != episode.supports[0]
