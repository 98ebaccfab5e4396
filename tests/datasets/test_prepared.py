import json

import numpy as np
import pytest
from PIL import Image

from piclip.datasets.catalogue import open_dataset
from piclip.datasets.few_shot import FewShotView
from piclip.errors import DatasetError, ImageError, MaskError, UsageError


def describe(root, **changes):
    description = {
        "format": 1,
        "name": "pascal-5i",
        "class_names": [f"thing {index}" for index in range(8)],
        "images": "photographs",
        **changes,
    }
    (root / "dataset.json").write_text(json.dumps(description))


@pytest.fixture
def prepared(tmp_path):
    """A prepared folder of eight classes; image k of val shows class k % 8 alone."""
    describe(tmp_path)
    for folder in ("masks", "lists", "photographs"):
        (tmp_path / folder).mkdir()
    lines = []
    for number in range(16):
        class_map = np.zeros((50, 60), dtype=np.uint8)
        class_map[1:49, 1:50] = number % 8 + 1
        class_map[0] = 255
        Image.fromarray(class_map).save(tmp_path / "masks" / f"m{number}.png")
        Image.new("RGB", (60, 50), (number, 0, 0)).save(tmp_path / "photographs" / f"{number}.png")
        lines.append(f"{number}.png\tmasks/m{number}.png\n")
    (tmp_path / "lists" / "val.txt").write_text("".join(lines))
    return tmp_path


def test_the_published_counts_of_pascal_come_out(shared, tmp_path):
    source = shared / "data" / "voc-masks"
    (tmp_path / "masks").symlink_to(source / "SegmentationClassAug")
    (tmp_path / "lists").mkdir()
    pairs = [line.split() for line in (source / "lists" / "val.txt").read_text().splitlines()]
    lines = [f"{image}\tmasks/{mask.partition('/')[2]}\n" for image, mask in pairs]
    (tmp_path / "lists" / "val.txt").write_text("".join(lines))
    names = [f"class {value}" for value in range(1, 21)]
    describe(tmp_path, class_names=names, images="no photographs are needed to count")

    dataset = open_dataset("pascal-5i", tmp_path)
    assert len(dataset.keys("val")) == 1449

    def images(dataset, minimum_pixels):
        return [
            len(
                FewShotView(
                    dataset, fold=fold, split="val", classes="novel", minimum_pixels=minimum_pixels
                ).keys
            )
            for fold in range(4)
        ]

    assert images(dataset, None) == [364, 445, 592, 336]
    assert images(dataset, 1) == [433, 479, 647, 354]
    again = open_dataset("pascal-5i", tmp_path)
    again.class_map = None  # the counts come from the file beside dataset.json
    assert images(again, None) == [364, 445, 592, 336]
    base = FewShotView(dataset, fold=0, split="val", classes="base")
    rows = [dataset.keys("val").index(key) for key in base.keys]
    assert not dataset.presence("val")[rows, :5].any()


def test_samples_come_from_the_lists(prepared):
    dataset = open_dataset("pascal-5i", prepared)
    assert dataset.keys("val") == tuple(f"m{number}" for number in range(16))
    sample = dataset.sample("m9")
    assert sample.image.shape == (50, 60, 3) and (sample.image[0, 0] == [9, 0, 0]).all()
    assert sample.mask(1).sum() == 48 * 49 and not sample.mask(0).any()
    assert (sample.class_map[0] == 255).all()
    assert dataset.novel_classes(1) == (2, 3)


def test_photographs_may_lie_elsewhere(prepared):
    (prepared / "photographs").rename(prepared / "moved")
    with pytest.raises(ImageError, match=r"0.png: no such file"):
        open_dataset("pascal-5i", prepared).sample("m0")
    moved = open_dataset("pascal-5i", prepared, images=prepared / "moved")
    assert moved.sample("m0").image.shape == (50, 60, 3)


def test_coco_has_both_fold_conventions_and_its_wordings(prepared):
    from piclip.clip.prompts import class_names

    describe(prepared, name="coco-20i", class_names=list(class_names("coco")))
    interleaved = open_dataset("coco-20i", prepared)
    contiguous = open_dataset("coco-20i", prepared, fold_convention="contiguous")
    for fold in range(4):
        assert interleaved.novel_classes(fold) == tuple(4 * j + fold for j in range(20))
        assert contiguous.novel_classes(fold) == tuple(range(20 * fold, 20 * fold + 20))
    assert interleaved.synonyms["bird"] == ("bird avian",)
    assert interleaved.synonyms["zebra"] == ("zebra",)


def test_faults_are_said_in_one_sentence(prepared):
    def open_again(**options):
        return open_dataset("pascal-5i", prepared, **options)

    with pytest.raises(DatasetError, match="no train split; prepare"):
        open_again().keys("train")
    with pytest.raises(UsageError, match="no image 'm99' in pascal-5i"):
        open_again().sample("m99")
    with pytest.raises(UsageError, match="no fold -1 of pascal-5i; choose 0 to 3"):
        open_again().novel_classes(-1)
    with pytest.raises(UsageError, match="holds pascal-5i, not coco-20i"):
        open_dataset("coco-20i", prepared)

    Image.new("L", (60, 50), 9).save(prepared / "masks" / "m3.png")
    with pytest.raises(MaskError, match=r"m3.png: the mask holds the unknown values 9"):
        open_again().presence("val")
    Image.new("L", (50, 60), 1).save(prepared / "masks" / "m3.png")
    with pytest.raises(DatasetError, match=r"m3 is 60 x 50 pixels .* its mask is 50 x 60"):
        open_again().sample("m3")
    (prepared / "masks" / "m3.png").unlink()
    with pytest.raises(ImageError, match=r"m3.png: no such file"):
        open_again().presence("val")


def test_damaged_lists_and_descriptions_are_refused(prepared):
    val, train = prepared / "lists" / "val.txt", prepared / "lists" / "train.txt"
    good = val.read_text()
    train.write_text(good.splitlines()[2])
    with pytest.raises(DatasetError, match="m2 is in the train and in the val split"):
        open_dataset("pascal-5i", prepared)
    train.unlink()
    val.write_text(good + "0.png masks/m0.png\n")
    with pytest.raises(DatasetError, match=r"line 17: .* parted by one tab"):
        open_dataset("pascal-5i", prepared)
    val.write_text(good + good.splitlines()[0])
    with pytest.raises(DatasetError, match="two images are called m0"):
        open_dataset("pascal-5i", prepared)
    val.write_text(good)
    describe(prepared, class_names="cat")
    with pytest.raises(DatasetError, match="does not list the names"):
        open_dataset("pascal-5i", prepared)
    describe(prepared, class_names=[f"thing {index}" for index in range(255)])
    with pytest.raises(DatasetError, match="255 classes, but a class map holds up to 254"):
        open_dataset("pascal-5i", prepared)
    (prepared / "dataset.json").unlink()
    with pytest.raises(UsageError, match="no prepared folder"):
        open_dataset("pascal-5i", prepared)
