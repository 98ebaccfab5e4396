"""Whose mask counts, what is listed, and what happens to broken or stopped preparations."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import (
    EVERY,
    SBD_MAIN_TRAIN,
    SBD_OTHER,
    SIZE,
    VOC_TRAIN,
    VOC_VAL,
    labels,
    voc_and_sbd,
    write_instance_mat,
    write_list,
    write_voc_mask,
)

from piclip.datasets.few_shot import FewShotView
from piclip.datasets.prepare import preparation
from piclip.datasets.prepare.pascal_5i import prepare_pascal, read_instance_mat
from piclip.datasets.prepared import open_pascal
from piclip.errors import DatasetError, ImageError, MaskError, OutputError, PiclipError, UsageError


@pytest.fixture
def sources(tmp_path):
    voc, sbd = voc_and_sbd(tmp_path / "sources")
    return {"voc": voc, "sbd": sbd}


def listed(out, split):
    lines = (out / "lists" / f"{split}.txt").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    assert all(Path(photo).stem == Path(mask).stem for photo, mask in pairs)
    return {Path(mask).stem for _, mask in pairs}


def mask_of(out, key):
    return np.asarray(Image.open(out / "masks" / f"{key}.png"))


def test_images_of_vocs_lists_keep_vocs_masks(tmp_path, sources):
    prepare_pascal(tmp_path / "out", **sources, train_list="aug")
    for key in EVERY:
        own = key in {*VOC_TRAIN, *VOC_VAL}
        expected = labels(value=1, border=True) if own else labels(value=2)
        np.testing.assert_array_equal(mask_of(tmp_path / "out", key), expected)


@pytest.mark.parametrize(
    ("choice", "train"),
    [
        ("published", {*VOC_TRAIN, *SBD_MAIN_TRAIN}),
        ("aug", {*VOC_TRAIN, *SBD_MAIN_TRAIN, *SBD_OTHER}),
    ],
)
def test_the_lists(tmp_path, sources, choice, train):
    prepared = prepare_pascal(tmp_path, **sources, train_list=choice)
    assert listed(tmp_path, "train") == train
    assert listed(tmp_path, "val") == set(VOC_VAL)
    assert prepared.counts == {"train": len(train), "val": 2}
    published = {"published": "5953", "aug": "10582"}[choice]
    assert published in " ".join(prepared.departures)


def test_sbds_own_list_decides_where_it_is_there(tmp_path, sources):
    write_list(sources["sbd"] / "train_noval.txt", SBD_OTHER)
    prepare_pascal(tmp_path, **sources)
    assert listed(tmp_path, "train") == {*VOC_TRAIN, *SBD_OTHER}


def test_a_list_of_ones_own_may_have_paths(tmp_path, sources):
    file = tmp_path / "mine.txt"
    file.write_text(f"JPEGImages/{VOC_TRAIN[0]}.jpg SegmentationClassAug/{VOC_TRAIN[0]}.png\n")
    prepare_pascal(tmp_path / "out", **sources, list_file=file)
    assert listed(tmp_path / "out", "train") == {VOC_TRAIN[0]}
    file.write_text(VOC_VAL[0])
    with pytest.raises(UsageError, match="val list"):
        prepare_pascal(tmp_path / "out", **sources, list_file=file)


def test_what_was_prepared_can_be_opened(tmp_path, sources):
    prepare_pascal(tmp_path, **sources)
    sample = open_pascal(tmp_path).sample(SBD_MAIN_TRAIN[0])
    assert sample.image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(sample.mask(1), labels(value=2) == 2)


def test_instance_files_give_the_same_as_class_files(tmp_path, sources):
    objects = np.zeros(SIZE, dtype=np.uint8)
    objects[0:4], objects[6:9] = 1, 2
    write_instance_mat(tmp_path / "inst" / "a.mat", objects, [7, 15])
    found = read_instance_mat(tmp_path / "inst" / "a.mat")
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[0:4], expected[6:9] = 7, 15
    np.testing.assert_array_equal(found, expected)


def test_stopped_and_run_again_it_goes_on(tmp_path, sources):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(PiclipError, match="Stopped with 2 of 6 masks done"):
        prepare_pascal(tmp_path, **sources, progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").iterdir()}
    assert not (tmp_path / "lists").exists()
    prepared = prepare_pascal(tmp_path, **sources)
    assert (prepared.made, prepared.kept) == (4, 2)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert {path.suffix for path in (tmp_path / "masks").iterdir()} == {".png"}


def test_a_full_disk(tmp_path, sources, monkeypatch):
    prepare = Path.write_bytes

    def full(path, data):
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return prepare(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        prepare_pascal(tmp_path, **sources)
    assert list((tmp_path / "masks").iterdir()) == []
    monkeypatch.undo()
    assert prepare_pascal(tmp_path, **sources).made == 6


@pytest.mark.parametrize("damage", [b"", b"no mat file", "half"])
def test_a_damaged_mat_file_is_named(tmp_path, sources, damage):
    path = sources["sbd"] / "cls" / f"{SBD_MAIN_TRAIN[0]}.mat"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    with pytest.raises(MaskError, match=path.name):
        prepare_pascal(tmp_path, **sources)


def test_unknown_values_are_named(tmp_path, sources):
    mask = sources["voc"] / "SegmentationClass" / f"{VOC_VAL[0]}.png"
    write_voc_mask(mask, labels(value=77))
    with pytest.raises(MaskError, match="unknown values 77"):
        prepare_pascal(tmp_path, **sources)


def test_a_mask_of_colours_is_refused(tmp_path, sources):
    mask = sources["voc"] / "SegmentationClass" / f"{VOC_VAL[0]}.png"
    Image.new("RGB", (16, 12)).save(mask)
    with pytest.raises(MaskError, match="convert its colours"):
        prepare_pascal(tmp_path, **sources)


@pytest.mark.parametrize(
    ("missing", "error", "words"),
    [
        ("voc/JPEGImages/2008_000005.jpg", DatasetError, "1 photographs are missing"),
        ("voc/SegmentationClass/2007_000003.png", DatasetError, "1 masks of VOC are missing"),
        ("voc/ImageSets/Segmentation/val.txt", ImageError, "val.txt"),
        ("voc/ImageSets/Main/train.txt", UsageError, "train_noval.txt"),
    ],
)
def test_missing_files_are_told_before_anything_is_written(
    tmp_path, sources, missing, error, words
):
    (sources["voc"] / missing.removeprefix("voc/")).unlink()
    with pytest.raises(error, match=words):
        prepare_pascal(tmp_path / "out", **sources)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_something_else(tmp_path, sources):
    with pytest.raises(UsageError, match="no folder of VOC 2012"):
        prepare_pascal(tmp_path, voc=tmp_path, sbd=sources["sbd"])
    with pytest.raises(UsageError, match="no folder of SBD"):
        prepare_pascal(tmp_path, voc=sources["voc"], sbd=tmp_path)
    with pytest.raises(UsageError, match="Give either"):
        prepare_pascal(tmp_path, voc=sources["voc"])
    with pytest.raises(UsageError, match="published, aug"):
        prepare_pascal(tmp_path, **sources, train_list="all")


def test_masks_of_two_origins_are_not_mixed(tmp_path, sources):
    prepare_pascal(tmp_path, **sources)
    with pytest.raises(UsageError, match="not of ready class masks"):
        prepare_pascal(tmp_path, voc=sources["voc"], masks=tmp_path / "masks")


@pytest.fixture(scope="module")
def full_size(shared, tmp_path_factory):
    """VOC's val list and all masks, with empty files in place of the photographs."""
    source = shared / "data" / "voc-masks"
    voc = tmp_path_factory.mktemp("voc")
    lists = source / "lists"
    keys = {
        name: [Path(line.split()[0]).stem for line in (lists / f"{name}.txt").open()]
        for name in ("val", "voc_original_train", "sbd_data", "voc_sbd_merge_noduplicate")
    }
    write_list(voc / "ImageSets" / "Segmentation" / "val.txt", keys["val"])
    write_list(voc / "ImageSets" / "Segmentation" / "train.txt", keys["voc_original_train"])
    write_list(voc / "ImageSets" / "Main" / "train.txt", keys["sbd_data"])
    (voc / "JPEGImages").mkdir()
    for path in (source / "SegmentationClassAug").iterdir():
        (voc / "JPEGImages" / f"{path.stem}.jpg").touch()
    return voc, source / "SegmentationClassAug", keys


@pytest.mark.parametrize(("choice", "count"), [("published", 5953), ("aug", 10582)])
def test_the_published_lists_come_out(full_size, tmp_path, monkeypatch, choice, count):
    voc, masks, keys = full_size
    monkeypatch.setattr(preparation, "write_class_map", lambda class_map, path: path)
    monkeypatch.setattr(
        "piclip.datasets.prepare.pascal_5i.read_class_map", lambda path, classes: labels(value=1)
    )
    prepared = prepare_pascal(tmp_path, voc=voc, masks=masks, train_list=choice)
    assert prepared.counts == {"train": count, "val": 1449}
    assert prepared.departures == []
    if choice == "published":
        assert listed(tmp_path, "train") == set(keys["voc_sbd_merge_noduplicate"])


@pytest.mark.slow
def test_the_fold_counts_of_the_val_list(full_size, tmp_path):
    voc, masks, keys = full_size
    few = tmp_path / "few.txt"
    few.write_text(keys["voc_original_train"][0])
    prepare_pascal(tmp_path / "out", voc=voc, masks=masks, list_file=few)
    dataset = open_pascal(tmp_path / "out")
    counts = {
        pixels: [
            len(
                FewShotView(
                    dataset, fold=f, split="val", classes="novel", minimum_pixels=pixels
                ).keys
            )
            for f in range(4)
        ]
        for pixels in (2048, 1)
    }
    assert counts == {2048: [364, 445, 592, 336], 1: [433, 479, 647, 354]}


def test_dataset_json(tmp_path, sources):
    prepare_pascal(tmp_path, **sources)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["format"] == 1
    assert description["name"] == "pascal-5i"
    assert len(description["class_names"]) == 20
    assert Path(description["images"]) == sources["voc"].resolve()
