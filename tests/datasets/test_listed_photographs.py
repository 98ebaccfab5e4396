"""Photographs of VOC by lists of their numbers, and the lists that are in the repository."""

from pathlib import Path

import numpy as np
import pytest

from photographs import write_photographs
from piclip.clip.prompts import class_names
from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.errors import DatasetError, UsageError
from sentences import one_sentence

LISTS = Path(__file__).parents[2] / "benchmarks" / "photos5i"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("voc"), classes=20, images=4)


def write_lists(folder, **lists):
    folder.mkdir(exist_ok=True)
    for split, numbers in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(numbers))
    return folder


def test_the_lists_say_which_images_are_in_which_split(folder, tmp_path):
    lists = write_lists(tmp_path, train=["7_1", "6_0", "7_0"], val=["0_3", "0_1", "6_2", "6_1"])
    dataset = open_dataset("voc-photos", folder, lists=str(lists))
    assert dataset.keys("train") == ("7_1", "6_0", "7_0")
    assert dataset.class_names == class_names("voc")
    novel = FewShotView(dataset, fold=0, split="val", classes="novel")
    base = FewShotView(dataset, fold=0, split="val", classes="base")
    assert (novel.keys, base.keys) == (("0_3", "0_1"), ("6_2", "6_1"))
    assert [dataset.novel_classes(fold) for fold in range(4)] == [
        tuple(range(5 * fold, 5 * fold + 5)) for fold in range(4)
    ]
    assert dataset.sample("7_0").mask(7).any()


def test_the_same_lists_select_from_a_prepared_folder(folder, tmp_path):
    prepared = tmp_path / "pascal"
    (prepared / "lists").mkdir(parents=True)
    (prepared / "masks").symlink_to(folder / "SegmentationClassAug")
    names = ", ".join(f'"{name}"' for name in class_names("voc"))
    (prepared / "dataset.json").write_text(
        f'{{"format": 1, "name": "pascal-5i", "images": "{folder / "JPEGImages"}", '
        f'"class_names": [{names}]}}'
    )
    for split, start in (("train", 0), ("val", 2)):
        lines = [f"{c}_{n}.jpg\tmasks/{c}_{n}.png" for c in range(20) for n in (start, start + 1)]
        (prepared / "lists" / f"{split}.txt").write_text("\n".join(lines))
    lists = write_lists(tmp_path / "lists", train=["7_1", "7_3"], val=["0_0"])
    own, there = (open_dataset("voc-photos", f, lists=lists) for f in (folder, prepared))
    for key in ("7_1", "7_3", "0_0"):
        np.testing.assert_array_equal(own.sample(key).image, there.sample(key).image)
        np.testing.assert_array_equal(own.sample(key).class_map, there.sample(key).class_map)
    assert there.keys("train") == ("7_1", "7_3")


def test_what_is_missing_is_told(folder, tmp_path):
    with pytest.raises(UsageError, match="needs the option lists") as error:
        open_dataset("voc-photos", folder)
    assert one_sentence(error)
    lists = write_lists(tmp_path, train=["7_1", "2008_000019"], val=["7_1"])
    with pytest.raises(DatasetError, match=r"lacks the image 2008_000019 of .*train.txt") as error:
        open_dataset("voc-photos", folder, lists=lists)
    assert one_sentence(error)
    write_lists(tmp_path, train=["7_1"])
    with pytest.raises(DatasetError, match="in the train and in the val split"):
        open_dataset("voc-photos", folder, lists=lists)
    (lists / "val.txt").unlink()
    with pytest.raises(DatasetError, match=r"val.txt cannot be read"):
        open_dataset("voc-photos", folder, lists=lists)


@pytest.mark.parametrize("fold", range(4))
def test_nothing_is_tested_on_what_was_trained_on(shared, fold):
    dataset = open_dataset("voc-photos", shared / "data/voc-photos", lists=LISTS / f"fold{fold}")
    novel = list(dataset.novel_classes(fold))
    assert not dataset.presence("train")[:, novel].any()
    learned, judged, tested = (
        set(FewShotView(dataset, fold=fold, split=split, classes=classes).keys)
        for split, classes in (("train", "base"), ("val", "base"), ("val", "novel"))
    )
    assert min(map(len, (learned, judged, tested))) > 50
    assert not learned & judged and not learned & tested and not judged & tested
    every = {*dataset.keys("train"), *dataset.keys("val")}
    assert len(every) == 443
    # Held back are the images of novel classes, and every fifth of the others by its number.
    shows = dict(
        zip(dataset.keys("val"), dataset.presence("val")[:, novel].any(axis=1), strict=True)
    )
    others = sorted(every - {key for key, novel_too in shows.items() if novel_too})
    assert others[::5] == sorted(key for key, novel_too in shows.items() if not novel_too)
    view = FewShotView(dataset, fold=fold, split="val", classes="novel")
    view.check_shots(5)
