import numpy as np
import pytest
from PIL import Image

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.errors import DatasetError, ImageError, MaskError, UsageError


def test_a_folder_without_lists_is_all_val(own_folder):
    dataset = open_dataset("folder", own_folder)
    assert dataset.class_names == ("cat", "garden gnome")
    assert dataset.synonyms["garden gnome"] == ("garden gnome",)
    assert dataset.keys("val") == tuple(f"photo {number}" for number in range(8))
    with pytest.raises(DatasetError, match=r"no train split; list its images .* train.txt"):
        dataset.keys("train")
    view = FewShotView(dataset, fold=0, split="val", classes="novel")
    episode = view.load(view.episode(0, 0, 3))
    value = episode.class_index + 1
    for sample in (episode.query, *episode.supports):
        assert np.array_equal(sample.mask(episode.class_index), sample.class_map == value)
        assert sample.mask(episode.class_index).sum() == 48 * 49


def test_lists_and_folds(own_folder):
    (own_folder / "train.txt").write_text("photo 0\nphoto 1.png\nphoto 2\n")
    (own_folder / "val.txt").write_text("photo 5\n\nphoto 4\n")
    dataset = open_dataset("folder", own_folder, folds=2)
    assert dataset.keys("train") == ("photo 0", "photo 1", "photo 2")
    assert dataset.keys("val") == ("photo 5", "photo 4")
    base = FewShotView(dataset, fold=1, split="train", classes="base")
    assert base.classes == (0,) and base.keys == ("photo 0", "photo 2")


def test_pictures_are_turned_upright(own_folder):
    image = Image.new("RGB", (50, 60))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(own_folder / "images" / "photo 0.png", exif=exif)
    assert open_dataset("folder", own_folder).sample("photo 0").image.shape == (50, 60, 3)


def test_a_list_may_not_name_what_is_not_there_or_twice(own_folder):
    (own_folder / "val.txt").write_text("photo 5\nphoto 9\n")
    with pytest.raises(DatasetError, match=r"1 listed name has no image .*photo 9"):
        open_dataset("folder", own_folder)
    (own_folder / "val.txt").write_text("photo 5\n")
    (own_folder / "train.txt").write_text("photo 5\nphoto 6\n")
    with pytest.raises(DatasetError, match="photo 5 is in the train and in the val split"):
        open_dataset("folder", own_folder)


def test_images_and_masks_come_in_pairs(own_folder):
    mask = own_folder / "masks" / "photo 2.png"
    mask.rename(own_folder / "masks" / "other.png")
    with pytest.raises(DatasetError, match=r"1 image has no mask in masks/ .*photo 2.png"):
        open_dataset("folder", own_folder)
    (own_folder / "images" / "photo 2.png").unlink()
    with pytest.raises(DatasetError, match=r"1 mask has no image in images/ .*other.png"):
        open_dataset("folder", own_folder)


def test_faults_are_said_in_one_sentence(own_folder):
    Image.new("RGB", (60, 50)).save(own_folder / "masks" / "photo 1.png")
    with pytest.raises(MaskError, match="RGB"):
        open_dataset("folder", own_folder).sample("photo 1")
    Image.new("L", (61, 50)).save(own_folder / "masks" / "photo 1.png")
    with pytest.raises(DatasetError, match=r"photo 1 is 60 x 50 .* but its mask is 61 x 50"):
        open_dataset("folder", own_folder).sample("photo 1")
    (own_folder / "images" / "photo 3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"photo 3.png: .* damaged"):
        open_dataset("folder", own_folder).sample("photo 3")
    with pytest.raises(UsageError, match="2 classes make 1 to 2 folds, not 4"):
        open_dataset("folder", own_folder, folds=4)
    with pytest.raises(UsageError, match="from 1 pixel on"):
        open_dataset("folder", own_folder, minimum_pixels=0)
    (own_folder / "classes.txt").write_text("\n")
    with pytest.raises(DatasetError, match="there is no class"):
        open_dataset("folder", own_folder)
    (own_folder / "classes.txt").unlink()
    with pytest.raises(DatasetError, match=r"classes.txt cannot be read"):
        open_dataset("folder", own_folder)


def test_names_folders_and_options_are_checked(own_folder):
    with pytest.raises(UsageError, match=r"no dataset 'voc'; choose from pascal-5i, .*scenes"):
        open_dataset("voc", own_folder)
    with pytest.raises(UsageError, match="no option 'fold'; choose from folds, "):
        open_dataset("folder", own_folder, fold=1)
    with pytest.raises(UsageError, match="needs its folder"):
        open_dataset("fss-1000")
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset("folder", own_folder / "nowhere")
    with pytest.raises(UsageError, match="lies in no folder"):
        open_dataset("scenes", own_folder)
