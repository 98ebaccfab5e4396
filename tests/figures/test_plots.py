"""The figures: what their panels show, their labels, and how they are written."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from piclip.errors import OutputError, UsageError
from piclip.figures.plots import EpisodeRow, episodes_figure, priors_figure, save_figure
from piclip.results import Priors, Segmentation


def square(height, width, top=5, left=10, side=12):
    mask = np.zeros((height, width), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def make(names=("cat",), size=(30, 40), **changes):
    mask = square(*size)
    ramp = np.broadcast_to(np.linspace(0, 1, 8, dtype=np.float32), (len(names), 6, 8))
    flat = [np.full((len(names), 6, 8), level, np.float32) for level in (0.0, 0.5, 1.0, 0.5)]
    parts = {
        "class_names": names,
        "class_map": mask.astype(np.uint8),
        "score_maps": np.stack([mask] * len(names)).astype(np.float32),
        "priors": Priors(flat[2], ramp, flat[0], flat[1]),
        "image": Image.new("RGB", size[::-1], (90, 90, 90)),
        "name": "q",
    }
    return Segmentation(**(parts | changes))


SUPPORT = Image.new("RGB", (50, 20), (20, 200, 20))
SUPPORT_MASK = square(20, 50)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def pictures(figure):
    return [np.asarray(axes.images[0].get_array()).astype(float) for axes in figure.axes]


def test_one_row_has_seven_panels_and_a_scale():
    figure = priors_figure(SUPPORT, SUPPORT_MASK, make(), truth=square(30, 40, left=16))
    assert len(figure.axes) == 8
    joined = " ".join(texts(figure)).replace("\n", " ")
    for words in (
        "Support",
        "truth",
        "VTP",
        "refined",
        "Object against",
        "Together",
        "Result",
        "cat",
        "IoU 33.3 %",
    ):
        assert words in joined


def test_without_the_truth_no_iou_is_claimed():
    joined = " ".join(texts(priors_figure(SUPPORT, SUPPORT_MASK, make())))
    assert "IoU" not in joined
    assert "truth" not in joined


def test_panels_show_what_their_titles_say():
    truth = square(30, 40, top=16, left=26)
    support, query, ramp, black, middle, bright, result, _ = pictures(
        priors_figure(SUPPORT, SUPPORT_MASK, make(), truth=truth)
    )
    for shown, mask in ((support, SUPPORT_MASK), (query, truth), (result, make().mask)):
        height, width = shown.shape[:2]
        assert width / height == pytest.approx(mask.shape[1] / mask.shape[0], rel=0.02)
        # Everything that differs from the ground colour of a corner is the object.
        changed = np.abs(shown - shown[-1, 0]).max(axis=2) > 40
        small = np.asarray(Image.fromarray(mask).resize((width, height)))
        assert (changed & small).sum() / (changed | small).sum() > 0.85
    levels = [black.mean(), middle.mean(), bright.mean()]
    assert levels == sorted(levels)
    assert levels[2] - levels[0] > 100
    columns = ramp.mean(axis=(0, 2))
    assert np.all(np.diff(columns) > -1.0)  # smooth and rising with the prior
    assert np.abs(np.diff(columns)).max() < 8


def test_the_class_index_picks_map_mask_and_label():
    names = ("cat", "dog")
    priors = [np.zeros((2, 6, 8), np.float32) for _ in range(5)]
    priors[1][1] = 1.0
    class_map = square(30, 40).astype(np.uint8) * 2
    result = make(names, priors=Priors(*priors), class_map=class_map)
    cat = EpisodeRow(SUPPORT, SUPPORT_MASK, result, class_map == 2, 0)
    dog = EpisodeRow(SUPPORT, SUPPORT_MASK, result, class_map == 2, 1)
    assert (cat.iou, dog.iou) == (0.0, 1.0)
    assert (cat.label, dog.label) == ("cat\nIoU 0.0 %", "dog\nIoU 100.0 %")
    figures = [pictures(episodes_figure([row])) for row in (cat, dog)]
    assert figures[0][2].mean() < figures[1][2].mean()


def test_iou_is_the_plain_formula():
    truth = square(30, 40, top=8, left=14)
    row = EpisodeRow(SUPPORT, SUPPORT_MASK, make(), truth)
    prediction = make().mask
    assert row.iou == pytest.approx((prediction & truth).sum() / (prediction | truth).sum())
    empty = np.zeros((30, 40), bool)
    nothing = make(class_map=empty.astype(np.uint8))
    assert EpisodeRow(SUPPORT, SUPPORT_MASK, nothing, empty).iou == 1.0
    assert EpisodeRow(SUPPORT, SUPPORT_MASK, nothing).iou is None


def test_several_rows_of_any_shape_do_not_overlap():
    sizes = [(30, 40), (900, 7), (7, 900), (1, 1)]
    rows = [EpisodeRow(SUPPORT, SUPPORT_MASK, make(size=size)) for size in sizes]
    figure = episodes_figure(rows)
    assert len(figure.axes) == 7 * len(rows) + 1
    boxes = [axes.get_position() for axes in figure.axes]
    for i, one in enumerate(boxes):
        assert 0 <= one.x0 < one.x1 <= 1
        assert 0 <= one.y0 < one.y1 <= 1
        for other in boxes[:i]:
            assert (
                one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
            )


def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="at least one"):
        episodes_figure([])
    with pytest.raises(UsageError, match="does not hold its image"):
        priors_figure(SUPPORT, SUPPORT_MASK, make(image=None))
    with pytest.raises(UsageError, match="support mask"):
        priors_figure(SUPPORT, SUPPORT_MASK.T, make())
    with pytest.raises(UsageError, match="true mask"):
        priors_figure(SUPPORT, SUPPORT_MASK, make(), truth=SUPPORT_MASK)
    for index in (-1, 1):
        with pytest.raises(UsageError, match=str(index)):
            priors_figure(SUPPORT, SUPPORT_MASK, make(), class_index=index)


@pytest.mark.parametrize("name", ["a $b_{ $x^ name", "зебра", "a name of very many words to wrap"])
def test_any_class_name_is_drawn(tmp_path, name):
    figure = priors_figure(SUPPORT, SUPPORT_MASK, make((name,)))
    assert " ".join(texts(figure)[-1].split()) == name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "f.png", dpi=40)


def test_save_figure(tmp_path):
    figure = priors_figure(SUPPORT, SUPPORT_MASK, make())
    path = save_figure(figure, str(tmp_path / "new" / "f.png"), dpi=50)
    with Image.open(path) as file:
        inches = figure.get_size_inches()
        assert file.format == "PNG"
        np.testing.assert_allclose(file.size, inches * 50, atol=1)
    assert save_figure(figure, tmp_path / "f.PDF").read_bytes().startswith(b"%PDF")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.PDF", "new"]
    for name in ("f", "f.xyz"):
        with pytest.raises(UsageError, match=r"\.png"):
            save_figure(figure, tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file is where a folder should be"):
        save_figure(figure, tmp_path / "file" / "f.png")


def test_pyplot_is_never_imported():
    code = "import sys, piclip.figures.plots; print('matplotlib.pyplot' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert answer.stdout.strip() == b"False"
