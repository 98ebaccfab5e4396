"""Folders of masks as people have them: beside the photos, as JPEG, with names of any kind."""

import numpy as np
import pytest
from format_builders import pack
from PIL import Image

from piclip.errors import UsageError
from piclip.formats import LabelledFile, Labels, Region, detect, read_labels, write_labels

DISC = np.hypot(*(np.mgrid[0:40, 0:60] - 20.0)) < 12


def lay(root, masks="cat", photos="photos", suffix="png", image=None):
    for folder in (root / masks, root / photos):
        folder.mkdir(parents=True, exist_ok=True)
    (image or Image.fromarray(DISC * np.uint8(255))).save(root / masks / f"a.{suffix}")
    Image.new("RGB", (60, 40), "teal").save(root / photos / "a.jpg")
    return root


@pytest.mark.parametrize("images", ["", "photos", "photos/deep"])
def test_photos_below_the_folder_of_masks_are_no_class(tmp_path, images):
    root = lay(tmp_path, photos=images)
    labels = read_labels(root, format="masks", images=root / images)
    assert (labels.class_names, labels.skipped) == (("cat",), ())
    np.testing.assert_array_equal(labels.images[0].mask_of("cat"), DISC)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp"])
def test_masks_with_loss_are_cut_at_the_middle_and_this_is_said(tmp_path, suffix):
    root = lay(tmp_path / "masks", photos="../photos", suffix=suffix)
    assert detect(root) == "masks"
    labels = read_labels(root, images=tmp_path / "photos")
    assert (labels.images[0].mask_of("cat") ^ DISC).sum() <= 4
    [note] = labels.notes
    assert "1 masks such as this are compressed with loss" in note
    assert "from 128 on" in note


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif"])
def test_masks_without_loss_may_have_any_suffix(tmp_path, suffix):
    root = lay(tmp_path / "masks", photos="../photos", suffix=suffix)
    labels = read_labels(root, images=tmp_path / "photos")
    np.testing.assert_array_equal(labels.images[0].mask_of("cat"), DISC)
    assert labels.notes == ()


def test_a_folder_of_photos_is_no_folder_of_masks(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="none of the label formats"):
        detect(tmp_path)


def test_a_background_that_is_not_zero_is_questioned(tmp_path):
    image = Image.fromarray(np.where(DISC, 2, 1).astype(np.uint8))
    root = lay(tmp_path / "masks", photos="../photos", image=image)
    labels = read_labels(root, images=tmp_path / "photos")
    assert labels.labelled == ()
    assert "no pixel of the mask is 0" in labels.skipped[0]


@pytest.mark.parametrize("layout", ["a.png", "train/a.png"])
@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 1, 3), (0, 2, 3, 255)])
def test_gray_maps_of_classes_are_never_one_class(tmp_path, layout, values):
    drawn = np.zeros((40, 60), np.uint8)
    for column, value in enumerate(values):
        drawn[:, 10 * column : 10 * column + 10] = value
    root = tmp_path / "maps"
    (root / layout).parent.mkdir(parents=True)
    Image.fromarray(drawn).save(root / layout)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photos/a.jpg")
    assert detect(root) == "voc"
    with pytest.raises(UsageError, match="what the class indices mean is not said"):
        read_labels(root, images=tmp_path / "photos")
    names = ("cat", "dog", "cow")
    told = read_labels(root, images=tmp_path / "photos", class_names=names)
    (root / "class_names.txt").write_text("background\ncat\ndog\ncow\n")
    written = read_labels(root, images=tmp_path / "photos")
    (root / "class_names.txt").rename(tmp_path / "class_names.txt")
    assert read_labels(root, images=tmp_path / "photos") == written == told
    for value, name in enumerate(names, start=1):
        np.testing.assert_array_equal(written.images[0].mask_of(name), drawn == value)
    one = read_labels(
        root,
        format="masks",
        images=tmp_path / "photos",
        class_names=names[:1] if layout == "a.png" else (),
    )
    assert "1 masks such as this hold several small values" in one.notes[0]
    assert "--format voc" in one.notes[0]


@pytest.mark.parametrize("kind", ["colours", "shades", "cut-out"])
def test_masks_of_several_colours_are_said(tmp_path, kind):
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[:, :20], rgb[:, 20:30] = (255, 0, 0), (0, 255, 0) if kind == "colours" else (140, 0, 0)
    image = Image.fromarray(rgb)
    if kind == "cut-out":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
        image.putalpha(Image.fromarray(DISC * np.uint8(255)))
    root = lay(tmp_path / "masks", photos="../photos", image=image)
    labels = read_labels(root, images=tmp_path / "photos")
    assert len(labels.labelled) == 1
    assert ["several small values or colours" in note for note in labels.notes] == (
        [True] if kind == "colours" else []
    )


def test_soft_borders_are_no_classes(tmp_path):
    soft = Image.fromarray(DISC * np.uint8(255)).resize(
        (60, 40), Image.Resampling.LANCZOS, (0, 0, 59, 39)
    )
    assert len(np.unique(np.asarray(soft))) > 3
    root = lay(tmp_path / "masks", photos="../photos", image=soft)
    assert detect(root) == "masks"
    assert read_labels(root, images=tmp_path / "photos").notes == ()


@pytest.mark.parametrize("module", ["masks", "voc", "yolo", "coco", "labelme", "labelstudio"])
@pytest.mark.parametrize(
    "names",
    [
        *(("a\nb", "c"), (" cat", "cat"), ("cat ", "cat"), ("Cat", "cat"), ("a\u2028b", "b")),
        *(("a\tb",), ("#x", "true", "1", "null", "ä: b")),
    ],
)
def test_names_of_any_kind_are_kept_apart_or_refused(tmp_path, module, names):
    mask = pack(DISC)
    file = LabelledFile("a.png", 40, 60, tuple(Region(name, mask) for name in names))
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    target = tmp_path / ("out.json" if module in {"coco", "labelstudio"} else "out")
    try:
        write_labels(Labels(names, (file,)), target, format=module)
    except UsageError as error:
        assert any(repr(name) in str(error) for name in names)
        assert module in {"masks", "voc"}
        assert not target.exists()
        return
    if module == "labelstudio":
        text = target.read_text().replace('"predictions"', '"annotations"')
        target.write_text(text)
    back = read_labels(target, format=module, images=tmp_path)
    if module == "voc":  # of masks that lie over each other only one is left
        assert back.class_names == names
    else:
        assert sorted(back.images[0].class_names) == sorted(names)
