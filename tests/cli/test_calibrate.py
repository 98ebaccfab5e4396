"""``piclip calibrate``."""

import json

import numpy as np
import pytest
from PIL import Image

from decoder_folders import trained
from photographs import write_photographs
from piclip import FewShotSegmenter
from piclip.datasets.file_dataset import FileDataset
from piclip.training_free.scorer import TrainingFreeScorer
from squares import picture

CONSTANTS = {"blocks", "text_weight", "text_level", "presence", "lift", "threshold"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photos") / "voc", classes=3, images=4)


@pytest.fixture
def calibrate(piclip, model, tmp_path):
    """Run the command with a few episodes of one shot; options given again replace the usual."""

    def run(data, *more):
        return piclip(
            *("calibrate", "--data", data, "--output", tmp_path / "new", "--model", model),
            *("--device", "cpu", "--episodes", 2, "--shots", 1, *more),
        )

    return run


def test_constants_are_chosen_written_and_told(calibrate, photos, model, tmp_path):
    ran = calibrate(photos, "--json")
    assert ran.code == 0 and "on the 2 episodes" in ran.err
    told = json.loads(ran.out)
    assert told.keys() == CONSTANTS | {"before", "after"}
    scorer = TrainingFreeScorer.load(tmp_path / "new", device="cpu")
    settings = scorer.vision.settings
    assert {key: told[key] for key in CONSTANTS - {"blocks"}} == {
        key: getattr(settings, key) for key in CONSTANTS - {"blocks"}
    }
    assert tuple(told["blocks"]) == settings.blocks
    assert settings.image_size == 64 and scorer.threshold == told["threshold"]
    assert scorer.fingerprint() == TrainingFreeScorer.load(model, device="cpu").fingerprint()
    segmenter = FewShotSegmenter.from_pretrained(tmp_path / "new", device="cpu")
    assert segmenter.threshold == told["threshold"]
    again = calibrate(photos, "--json", "--output", tmp_path / "again")
    assert json.loads(again.out) == told
    other = calibrate(photos, "--json", "--output", tmp_path / "other", "--seed", 1)
    assert json.loads(other.out) != told


def test_no_image_that_holds_a_class_left_out_is_opened(calibrate, photos, monkeypatch):
    opened = []
    sample = FileDataset.sample
    monkeypatch.setattr(
        FileDataset, "sample", lambda self, key: opened.append(key) or sample(self, key)
    )
    assert calibrate(photos, "--leave-out", "bicycle", "--episodes", 6).code == 0
    assert {key[0] for key in opened} == {"0", "2"}
    opened.clear()
    few = calibrate(photos, "--leave-out", "bicycle", "--leave-out", "bird")
    assert few.code == 1 and "Two classes with 4 images each are needed" in few.sentence
    unknown = calibrate(photos, "--leave-out", "bicycle", "--leave-out", "unicorn")
    assert unknown.code == 2 and "has no class 'unicorn' to leave out" in unknown.sentence
    assert not opened


def test_an_image_that_holds_the_class_among_others_is_left_out_too(
    calibrate, tmp_path, monkeypatch
):
    folder = write_photographs(tmp_path / "voc", classes=3, images=5)
    mask = folder / "SegmentationClassAug" / "0_0.png"
    with Image.open(mask) as old:
        image = old.copy()
    image.putpixel((0, 0), 2)  # a single pixel of a bicycle
    image.save(mask)
    opened = []
    sample = FileDataset.sample
    monkeypatch.setattr(
        FileDataset, "sample", lambda self, key: opened.append(key) or sample(self, key)
    )
    assert calibrate(folder, "--leave-out", "bicycle", "--episodes", 12).code == 0
    assert "0_0" not in opened and {key[0] for key in opened} == {"0", "2"}


def test_too_few_images_are_told_before_the_model_is_loaded(calibrate, photos, tmp_path):
    ran = calibrate(photos, "--shots", 5, "--model", tmp_path / "no-model")
    assert ran.code == 1 and "ask for fewer shots" in ran.sentence
    (tmp_path / "list").write_text("0_0\n9_9\n")
    ran = calibrate(photos, "--list", tmp_path / "list")
    assert ran.code == 2 and "has no image 9_9" in ran.sentence
    ran = calibrate(tmp_path / "nothing")
    assert ran.code == 2 and "holds no photographs" in ran.sentence


def test_the_built_in_world_is_data_too(calibrate, tmp_path):
    ran = calibrate("scenes", "--json")
    assert ran.code == 0 and json.loads(ran.out).keys() >= CONSTANTS
    assert (tmp_path / "new" / "piclip.json").is_file()


def test_the_built_in_world_has_nothing_to_leave_out(calibrate, tmp_path):
    ran = calibrate("scenes", "--leave-out", "cat")
    assert ran.code == 2 and "--leave-out" in ran.sentence
    (tmp_path / "list").write_text("0_0\n")
    ran = calibrate("scenes", "--list", tmp_path / "list")
    assert ran.code == 2 and "--list" in ran.sentence


def test_a_folder_of_ones_own_is_data_too(calibrate, tmp_path):
    folder = tmp_path / "mine"
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    for number in range(8):
        image, mask = picture((4 + number, 8), seed=number, side=48)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        labels = np.where(mask, number % 2 + 1, 0).astype(np.uint8)
        labels[0] = 255
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("red square\ngarden gnome\n")
    ran = calibrate(folder)
    assert ran.code == 0 and "on the 2 episodes" in ran.err
    ran = calibrate(folder, "--leave-out", "gnome")
    assert ran.code == 2 and "has no class 'gnome'" in ran.sentence


def test_a_trained_decoder_has_no_such_constants(calibrate, tmp_path):
    for folder in (trained(tmp_path / "run"), tmp_path / "run" / "decoder"):
        ran = calibrate("scenes", "--model", folder)
        assert ran.code == 2 and "is a trained decoder" in ran.sentence
        assert str(folder) in ran.sentence and not (tmp_path / "new").exists()


def test_where_the_model_cannot_go_is_told_before_an_image_is_seen(
    calibrate, photos, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(FewShotSegmenter, "from_pretrained", None)
    inside = calibrate(photos, "--output", model / "new")
    assert inside.code == 2 and "would lie in" in inside.sentence
    (tmp_path / "file").touch()
    below = calibrate(photos, "--output", tmp_path / "file" / "new")
    assert below.code == 1 and "a file is where a folder should be" in below.sentence
    clip = calibrate(photos, "--visual", "nowhere/vit", "--output", model)
    assert clip.code == 2 and "not empty" in clip.sentence
