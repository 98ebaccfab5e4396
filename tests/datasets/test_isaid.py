import numpy as np
import pytest
from PIL import Image

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.datasets.protocols import PFENET
from piclip.errors import DatasetError, PiclipError


@pytest.fixture
def patches(tmp_path):
    """Patch k of both splits shows class k % 15 in two pixels."""
    for split, prefix in (("train", "P0"), ("val", "P1")):
        for folder in ("images", "semantic_png"):
            (tmp_path / split / folder).mkdir(parents=True)
        for number in range(45):
            name = f"{prefix}{number:03d}_0_256"
            class_map = np.zeros((4, 5), dtype=np.uint8)
            class_map[1, 1:3] = number % 15 + 1
            Image.new("RGB", (5, 4)).save(tmp_path / split / "images" / f"{name}.png")
            mask = tmp_path / split / "semantic_png" / f"{name}_instance_color_RGB.png"
            Image.fromarray(class_map).save(mask)
    return tmp_path


def test_the_layout_of_the_patches_is_read(patches):
    dataset = open_dataset("isaid-5i", patches)
    assert len(dataset.class_names) == 15 and dataset.folds() == 3
    assert [dataset.class_names[i] for i in dataset.novel_classes(2)] == [
        "swimming pool", "roundabout", "soccer ball field", "plane", "harbor",
    ]  # fmt: skip
    assert dataset.keys("val")[0] == "P1000_0_256"
    assert np.array_equal(np.argwhere(dataset.sample("P1013_0_256").mask(13)), [[1, 1], [1, 2]])
    view = FewShotView(dataset, fold=1, split="val", classes="novel")
    assert view.images_of[6] == ("P1006_0_256", "P1021_0_256", "P1036_0_256")
    assert len(PFENET.episodes(view, 510, 20, 2)) == 20
    with pytest.raises(DatasetError, match="No image of the val split"):
        strict = open_dataset("isaid-5i", patches, minimum_pixels=3)
        FewShotView(strict, fold=1, split="val", classes="novel")


def test_what_is_missing_is_said(patches):
    mask = patches / "val" / "semantic_png" / "P1003_0_256_instance_color_RGB.png"
    mask.unlink()
    with pytest.raises(DatasetError, match="1 of the 45 images"):
        open_dataset("isaid-5i", patches)
    with pytest.raises(DatasetError, match="neither train nor val"):
        open_dataset("isaid-5i", patches / "val")
    with pytest.raises(PiclipError):
        open_dataset("isaid-5i", patches / "val" / "images")
    (patches / "val").rename(patches / "other")
    with pytest.raises(DatasetError, match="no val split"):
        open_dataset("isaid-5i", patches).keys("val")
