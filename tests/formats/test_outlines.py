"""Outlines along pixel edges, and the run-length masks that they are filled to."""

from itertools import chain

import numpy as np
import pytest
from format_builders import HOLED, mask_of, masks, pack, save_images, simple, unhurried
from hypothesis import given
from hypothesis import strategies as st

from piclip.errors import MaskError, UsageError
from piclip.formats import read_labels, write_labels
from piclip.formats.polygons import corners_from, joined, outlines, simplified
from piclip.formats.run_length import RunLengthMask


def even_odd(polygons, size):
    """Pixel centres inside an odd number of times: a ray to the left counts crossed edges."""
    inside = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            for polygon in polygons:
                for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                    if (ay > y + 0.5) != (by > y + 0.5):
                        at = ax + (y + 0.5 - ay) * (bx - ax) / (by - ay)
                        inside[y, x] ^= at < x + 0.5
    return inside


def test_a_square_with_a_hole_and_a_bar():
    ring, bar = sorted(outlines(mask_of(["###.#", "#.#.#", "###.#"])), key=len, reverse=True)
    assert {tuple(c) for c in ring[0]} == {(0, 0), (3, 0), (3, 3), (0, 3)}
    assert {tuple(c) for c in ring[1]} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert {tuple(c) for c in bar[0]} == {(4, 0), (5, 0), (5, 3), (4, 3)}
    assert outlines(np.zeros((3, 4), bool)) == []


@unhurried
@given(masks())
def test_outlines_fill_to_the_same_pixels(mask):
    parts = outlines(mask)
    loops = [loop for part in parts for loop in part]
    np.testing.assert_array_equal(even_odd(loops, mask.shape), mask)
    slit = [joined(part) for part in parts]
    assert RunLengthMask.from_polygons(slit, mask.shape, "x") == pack(mask)
    one = joined(slit)
    np.testing.assert_array_equal(even_odd([one], mask.shape), mask)
    assert RunLengthMask.from_polygons([one], mask.shape, "x") == pack(mask)


def test_outlines_of_a_large_ragged_mask():
    mask = np.random.default_rng(0).random((120, 160)) < 0.6
    one = joined([joined(part) for part in outlines(mask)])
    assert RunLengthMask.from_polygons([one], mask.shape, "x") == pack(mask)


def distance_to_outline(point, outline):
    """To the nearest of a closed outline's segments."""
    nearest = []
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        chord = end - start
        along = np.clip((point - start) @ chord / (chord @ chord or 1), 0, 1)
        nearest.append(np.linalg.norm(point - start - along * chord))
    return min(nearest)


@unhurried
@given(masks())
def test_a_simplified_outline_misses_no_corner_by_more_than_the_tolerance(mask):
    for [outline, *_] in outlines(mask):
        fewer = simplified(outline, 1.0)
        assert {tuple(c) for c in fewer} <= {tuple(c) for c in outline}
        assert max(distance_to_outline(corner, fewer) for corner in outline) <= 1.0


def test_a_staircase_becomes_a_triangle():
    [[outline]] = outlines(np.tri(60, dtype=np.bool_))
    assert len(outline) > 100
    corners = {tuple(corner) for corner in simplified(outline, 1.0)}
    assert len(corners) <= 4
    assert {(0, 60), (60, 60)} <= corners


@unhurried
@given(masks())
def test_simplified_outlines_are_outlines_still(mask):
    full, fewer = outlines(mask), outlines(mask, 1.0)
    assert [len(loops) for loops in fewer] == [len(loops) for loops in full]
    for loop, other in zip(chain(*full), chain(*fewer), strict=True):
        assert 3 <= len(other) <= len(loop)
        assert {tuple(corner) for corner in other} <= {tuple(corner) for corner in loop}


@pytest.mark.parametrize("name", ["coco", "labelme", "yolo"])
def test_formats_with_outlines_write_simplified_ones(tmp_path, name):
    y, x = np.ogrid[:60, :60]
    disc = (y - 30) ** 2 + (x - 30) ** 2 < 625
    target = tmp_path / ("out.json" if name == "coco" else "out")
    root = save_images(simple(disc), tmp_path / "images")
    write_labels(simple(disc), target, format=name, simplify=1.5)
    found = read_labels(target, images=root).images[0].mask_of("cat")
    assert 0 < (found != disc).sum() < 160  # its outline has 157 pixels
    text = "".join(
        path.read_text() for path in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.txt")]
    )
    assert len(text) < 500


@pytest.mark.parametrize("name", ["voc", "masks", "labelstudio"])
def test_pixels_have_no_outlines_to_simplify(tmp_path, name):
    with pytest.raises(UsageError, match="write one of coco, labelme, yolo"):
        write_labels(simple(HOLED), tmp_path / "out", format=name, simplify=1.0)


@unhurried
@given(masks())
def test_run_lengths_hold_a_mask_exactly(mask):
    packed = pack(mask)
    np.testing.assert_array_equal(packed.to_array(), mask)
    assert (packed.size, packed.area) == (mask.shape, mask.sum())
    rows, columns = np.nonzero(mask)
    left, top, width, height = packed.box
    assert (left, top) == (columns.min(), rows.min())
    assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
    assert RunLengthMask.from_runs(packed.counts.decode(), mask.shape, "x") == packed
    column_major = mask.T.ravel()
    runs = [len(list(g)) for g in np.split(column_major, np.flatnonzero(np.diff(column_major)) + 1)]
    runs = [0, *runs] if column_major[0] else runs
    assert RunLengthMask.from_runs(runs, mask.shape, "x") == packed


@unhurried
@given(masks(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_mask_within_a_box_is_that_of_the_whole_image(mask, top, left, below, right):
    whole = np.pad(mask, ((top, below), (left, right)))
    assert RunLengthMask.from_box(mask, (top, left), whole.shape) == pack(whole)


def test_runs_of_length_zero_make_no_difference():
    padded = RunLengthMask.from_runs([2, 1, 0, 1, 12], (4, 4), "x")
    assert padded == RunLengthMask.from_runs([2, 2, 12], (4, 4), "x")


def test_union():
    both = RunLengthMask.union([pack(HOLED), pack(~HOLED)])
    assert both.area == HOLED.size


@pytest.mark.parametrize(
    "runs",
    [
        [3, 4],
        [3, -4, 17],
        [1.5, 14.5],
        ["a"],
        [16, 1],
        [10**30],
        "1",
        "zzzz",
        "P",
        "0" * 50,
        "\x00",
        "",
    ],
)
def test_damaged_runs_are_refused(runs):
    with pytest.raises(MaskError, match=r"^f.json: annotation 3: the run lengths are damaged"):
        RunLengthMask.from_runs(runs, (4, 4), "f.json: annotation 3")


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([[0, 0], [3, 3]], "three corners"),
        ([[0, 0], [3, 3], [float("nan"), 1]], "is no number"),
        ([[0, 0], [7, 0], [0, 3]], r"\(7, 0\) lies outside the image of 5 x 4"),
        ([[0, 0], [0, -1.5], [3, 3]], r"\(0, -1.5\) lies outside"),
        ([[1, 1], [1, 1], [1, 1]], "covers no pixel"),
    ],
)
def test_bad_polygons_are_refused(corners, message):
    with pytest.raises(MaskError, match=rf"^f: line 2: .*{message}"):
        RunLengthMask.from_polygons([np.array(corners, float)], (4, 5), "f: line 2")


def test_polygons_may_reach_a_little_over_the_frame():
    whole = RunLengthMask.from_polygons(
        [np.array([[-1, -1], [6, -1], [6, 5], [-1, 5.0]])], (4, 5), "x"
    )
    assert whole.area == 20


def test_no_runs_and_no_polygons_are_empty_labels():
    for make in (
        lambda: RunLengthMask.from_runs([16], (4, 4), "f: item").not_empty("f: item"),
        lambda: RunLengthMask.from_polygons([], (4, 4), "f: item"),
    ):
        with pytest.raises(MaskError, match="f: item: the label covers no pixel"):
            make()


@pytest.mark.parametrize("numbers", [[1, 2, 3], ["a", "b"], [[1, 2], [3]], {"x": 1}, None])
def test_corners_must_be_pairs(numbers):
    with pytest.raises(MaskError, match="f: item: a polygon must be a list of pairs"):
        corners_from(numbers, "f: item")
