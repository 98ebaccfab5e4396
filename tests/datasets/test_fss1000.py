import numpy as np
import pytest
from PIL import Image

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView, base_class_map
from piclip.errors import DatasetError, UsageError


def make(root, classes, images=3):
    for number in range(classes):
        folder = root / f"class_{number}"
        folder.mkdir()
        for image in range(1, images + 1):
            mask = np.zeros((8, 9, 3), dtype=np.uint8)
            mask[: image + 1, 0] = 255
            Image.fromarray(mask).save(folder / f"{image}.png")
            Image.new("RGB", (9, 8), (number % 256, image, 0)).save(folder / f"{image}.jpg")
    return root


def test_the_split_files_decide(tmp_path):
    make(tmp_path, 6)
    for part, names in {"trn": "501", "val": "2", "test": "43"}.items():
        (tmp_path / f"{part}.txt").write_text("".join(f"class_{name}\n" for name in names))
    dataset = open_dataset("fss-1000", tmp_path)
    assert dataset.published_split and dataset.folds() == 1
    assert dataset.class_names == ("class_5", "class_0", "class_1", "class_4", "class_3")
    assert dataset.synonyms["class_5"] == ("class 5",)
    assert dataset.novel_classes(0) == (3, 4)
    assert dataset.keys("val") == tuple(f"class_{c}/{n}" for c in "43" for n in (1, 2, 3))
    sample = dataset.sample("class_4/2")
    assert sample.mask(3).sum() == 3 and sample.mask(3)[:3, 0].all()
    assert not any(sample.mask(index).any() for index in (0, 1, 2, 4))
    row = dataset.keys("val").index("class_4/2")
    assert dataset.presence("val")[row].tolist() == [0, 0, 0, 3, 0]
    base = FewShotView(dataset, fold=0, split="train", classes="base")
    assert base.classes == (0, 1, 2) and len(base.keys) == 9
    assert open_dataset("fss-1000", tmp_path, evaluate_on="val").class_names[3:] == ("class_2",)


def test_an_anti_aliased_border_is_cut_at_half(tmp_path):
    make(tmp_path, 6)
    for part, names in {"trn": "501", "val": "2", "test": "43"}.items():
        (tmp_path / f"{part}.txt").write_text("".join(f"class_{name}\n" for name in names))
    mask = np.zeros((8, 9, 3), dtype=np.uint8)
    mask[0, :4] = np.array([1, 127, 128, 255])[:, None]
    Image.fromarray(mask).save(tmp_path / "class_0" / "1.png")
    dataset = open_dataset("fss-1000", tmp_path)
    index = dataset.class_names.index("class_0")
    expected = np.zeros((8, 9), dtype=bool)
    expected[0, 2:4] = True
    np.testing.assert_array_equal(dataset.sample("class_0/1").mask(index), expected)
    row = dataset.keys("train").index("class_0/1")
    assert dataset.presence("train")[row, index] == 2


def test_without_files_the_split_follows_from_the_names_alone(tmp_path):
    make(tmp_path, 25, images=2)
    test = open_dataset("fss-1000", tmp_path)
    val = open_dataset("fss-1000", tmp_path, evaluate_on="val")
    assert not test.published_split
    parts = [test.class_names[:13], test.class_names[13:], val.class_names[13:]]
    assert [len(part) for part in parts] == [13, 6, 6]
    assert val.class_names[:13] == parts[0]
    assert sorted(name for part in parts for name in part) == sorted(
        f"class_{number}" for number in range(25)
    )
    assert parts[1] == tuple(f"class_{number}" for number in (14, 18, 19, 24, 3, 9))


def test_more_classes_than_values_of_a_class_map(tmp_path):
    make(tmp_path, 400, images=2)
    dataset = open_dataset("fss-1000", tmp_path)
    assert len(dataset.class_names) == 208 + 96
    view = FewShotView(dataset, fold=0, split="val", classes="novel")
    assert min(view.classes) == 208 and max(view.classes) == 303
    episode = view.load(view.episode(0, 0, 1))
    for sample in (episode.query, *episode.supports):
        assert sample.class_map.dtype == np.uint8 and sample.mask(episode.class_index).any()
        assert sample.key.split("/")[0] == episode.name
    with pytest.raises(UsageError, match="304 classes, but a base learner takes up to 254"):
        base_class_map(view, episode.query.class_map)


def test_faults_are_said_in_one_sentence(tmp_path):
    make(tmp_path, 4)
    (tmp_path / "class_2" / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"3.jpg has no mask 3.png"):
        open_dataset("fss-1000", tmp_path)
    (tmp_path / "trn.txt").write_text("class_0\nclass_1\n")
    with pytest.raises(DatasetError, match=r"val.txt cannot be read"):
        open_dataset("fss-1000", tmp_path)
    (tmp_path / "val.txt").write_text("class_1\n")
    (tmp_path / "test.txt").write_text("class_3\n")
    with pytest.raises(DatasetError, match="'class_1' is listed twice"):
        open_dataset("fss-1000", tmp_path)
    (tmp_path / "val.txt").write_text("class_9\n")
    with pytest.raises(DatasetError, match="names the class 'class_9'"):
        open_dataset("fss-1000", tmp_path)
    with pytest.raises(UsageError, match="evaluate_on is test or val"):
        open_dataset("fss-1000", tmp_path, evaluate_on="trn")
