"""Objects become class masks by the rules that the module states."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import SIZE, box, coco

from piclip.datasets.prepare.coco_20i import CATEGORY_IDS, prepare_coco
from piclip.datasets.prepared import open_coco
from piclip.errors import DatasetError, OutputError, UsageError

KEY = "COCO_val2014_000000000001"


def prepared_mask(tmp_path, annotations):
    file = coco(tmp_path / "coco", annotations)
    prepare_coco(tmp_path / "out", images=tmp_path / "coco", annotations=[file])
    return np.asarray(Image.open(tmp_path / "out" / "masks" / f"{KEY}.png"))


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_object_lies_on_top(tmp_path, turned):
    large, small = box(1, 90, (0, 10, 0, 12)), box(2, 13, (2, 6, 2, 7))
    if turned:
        large["id"], small["id"] = 2, 1
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[0:10, 0:12] = 80
    expected[2:6, 2:7] = 12  # category 13 is the twelfth: there is no 12
    np.testing.assert_array_equal(prepared_mask(tmp_path, [large, small]), expected)


def test_of_equal_objects_the_later_annotation_lies_on_top(tmp_path):
    found = prepared_mask(tmp_path, [box(7, 1, (0, 4, 2, 6)), box(3, 2, (0, 4, 0, 4))])
    assert found[0, 0] == 2
    assert found[0, 3] == 1


def test_crowds_are_ignored_and_lie_below(tmp_path):
    crowd, person = box(1, 1, (0, 4, 0, 4), crowd=True), box(2, 2, (2, 9, 2, 9))
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[0:4, 0:4] = 255
    expected[2:9, 2:9] = 2
    np.testing.assert_array_equal(prepared_mask(tmp_path, [person, crowd]), expected)


def test_an_outline_of_two_points_encloses_nothing(tmp_path):
    line = box(1, 1, (0, 4, 0, 4)) | {"segmentation": [[0, 0, 9, 9]]}
    assert not prepared_mask(tmp_path, [line]).any()


def test_images_without_objects_are_not_listed(tmp_path):
    file = coco(tmp_path, [box(1, 1, (0, 4, 0, 4), image=2)], images=3)
    prepared = prepare_coco(tmp_path / "out", images=tmp_path, annotations=[file])
    assert prepared.counts == {"val": 1}
    listed = (tmp_path / "out" / "lists" / "val.txt").read_text()
    assert listed == (
        "val2014/COCO_val2014_000000000002.jpg\tmasks/COCO_val2014_000000000002.png\n"
    )
    assert "40137" in prepared.departures[0]


def test_each_file_fills_its_own_list(tmp_path):
    files = [coco(tmp_path, [box(1, 1, (0, 4, 0, 4))], split=split) for split in ("train", "val")]
    prepare_coco(tmp_path / "out", images=tmp_path, annotations=files)
    dataset = open_coco(tmp_path / "out")
    assert dataset.keys("train") == ("COCO_train2014_000000000001",)
    assert dataset.keys("val") == (KEY,)
    with pytest.raises(UsageError, match="another annotation file"):
        prepare_coco(tmp_path / "out", images=tmp_path, annotations=[files[0], files[0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 12}, "annotation 1: the category 12 is not among"),
        (
            {"segmentation": {"size": [3, 3], "counts": [9]}},
            r"annotation 1: the mask's size is \[3, 3\]",
        ),
        ({"segmentation": None}, "annotation 1: .*'segmentation' is missing"),
    ],
)
def test_damaged_annotations_are_named(tmp_path, change, words):
    with pytest.raises(DatasetError, match=words):
        prepared_mask(tmp_path, [box(1, 1, (0, 4, 0, 4)) | change])


def test_files_that_are_something_else(tmp_path):
    file = coco(tmp_path, [box(1, 1, (0, 4, 0, 4))])
    good = json.loads(file.read_text())

    def refused(error, words, name="instances_val2014.json", data=good):
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        with pytest.raises(error, match=words):
            prepare_coco(tmp_path / "out", images=tmp_path, annotations=[path])

    refused(DatasetError, "not valid JSON", data=json.dumps(good)[:-20])
    refused(DatasetError, "an object with the field 'categories'", data=[1, 2])
    refused(
        DatasetError, "annotation 0: .*'image_id' is missing", data={**good, "annotations": [{}]}
    )
    refused(UsageError, "not COCO's 80", data={**good, "categories": good["categories"][:5]})
    [image] = good["images"]
    twice = [image | {"file_name": f"{f}/1.jpg", "id": n} for n, f in enumerate("ab", start=1)]
    refused(UsageError, "images a/1 and b/1 have one name", data={**good, "images": twice})
    refused(UsageError, "put train or val", name="instances.json")
    with pytest.raises(DatasetError, match="nowhere"):
        prepare_coco(tmp_path, images=tmp_path, annotations=[tmp_path / "nowhere.json"])
    (tmp_path / "val2014" / f"{KEY}.jpg").unlink()
    refused(DatasetError, "1 photographs are missing")


def test_stopped_by_a_full_disk_it_goes_on(tmp_path, monkeypatch):
    annotations = [box(n, 1, (0, 4, 0, 4), image=n) for n in (1, 2, 3)]
    file = coco(tmp_path, annotations, images=3)
    write, written = Path.write_bytes, []

    def full(path, data):
        if path.suffix == ".png":
            written.append(path)
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        prepare_coco(tmp_path / "out", images=tmp_path, annotations=[file])
    prepared = prepare_coco(tmp_path / "out", images=tmp_path, annotations=[file])
    assert (prepared.made, prepared.kept) == (1, 2)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    source = shared / "data" / "coco-mini"
    files = [source / "annotations" / f"instances_{split}2014.json" for split in ("train", "val")]
    out = tmp_path_factory.mktemp("coco-20i")
    return source, out, prepare_coco(out, images=source, annotations=files)


def test_real_val_images_are_those_of_the_published_list(real):
    source, out, _ = real
    published = {
        Path(line.split()[0]).stem for line in (source / "coco20i_val_data_list.txt").open()
    }
    there = {path.stem for path in (source / "val2014").iterdir()}
    assert set(open_coco(out).keys("val")) == there & published


def test_real_masks_agree_with_the_annotations(real):
    """Whatever the overlaps: a class is there if and only if an object of it is visible."""
    source, out, prepared = real
    assert prepared.made == sum(prepared.counts.values())
    dataset = open_coco(out)
    data = json.loads((source / "annotations" / "instances_val2014.json").read_text())
    keys = {image["id"]: Path(image["file_name"]).stem for image in data["images"]}
    allowed = {key: set() for key in keys.values()}
    area = dict.fromkeys(keys.values(), 0.0)
    for annotation in data["annotations"]:
        key = keys[annotation["image_id"]]
        value = 255 if annotation["iscrowd"] else CATEGORY_IDS.index(annotation["category_id"]) + 1
        allowed[key].add(value)
        area[key] += annotation["area"]
    shares = []
    for key in dataset.keys("val"):
        sample = dataset.sample(key)
        assert set(np.unique(sample.class_map)) - {0} <= allowed[key]
        shares.append((sample.class_map > 0).sum() / area[key])
    # Overlaps are counted once in masks, twice in areas.
    assert 0.8 < np.median(shares) <= 1.02
