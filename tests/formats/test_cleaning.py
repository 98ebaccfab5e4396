"""What is cleaned away, against a slow reference; and the same of regions and of class maps."""

from collections import deque

import numpy as np
import pytest
from format_builders import NAMES, mask_of, masks, pack, unhurried
from hypothesis import given
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.formats import LabelledFile, Region
from piclip.formats.cleaning import Cleaning, filled, least_area


def flooded(free, starts, *, corners):
    """All pixels that can be reached from the starts through free pixels, one by one."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)] if corners else []
    seen, waiting = np.zeros_like(free), deque(starts)
    while waiting:
        y, x = waiting.popleft()
        if not (0 <= y < free.shape[0] and 0 <= x < free.shape[1]) or seen[y, x] or not free[y, x]:
            continue
        seen[y, x] = True
        waiting.extend((y + dy, x + dx) for dy, dx in steps)
    return seen


def parts_of(mask):
    """The connected parts, in the order of their first pixels."""
    rest, found = mask.copy(), []
    while rest.any():
        part = flooded(mask, [tuple(np.argwhere(rest)[0])], corners=True)
        found.append(part)
        rest &= ~part
    return found


def filled_slowly(mask, others):
    result = mask.copy()
    for y, x in np.argwhere(~mask):
        hole = flooded(~mask, [(y, x)], corners=False)
        rows, columns = np.nonzero(hole)
        open_ = {0, mask.shape[0] - 1} & set(rows) or {0, mask.shape[1] - 1} & set(columns)
        result[y, x] = not open_ and not (hole & others).any()
    return result


def cleaned_slowly(class_map, cleaning):
    result = np.where(class_map == 255, 255, 0).astype(np.uint8)
    least = least_area(cleaning.min_area, class_map.shape)
    for index in (1, 2):
        mask = class_map == index
        if cleaning.fill_holes:
            mask = filled_slowly(mask, (class_map > 0) & ~mask)
        parts = [part for part in parts_of(mask) if part.sum() >= least]
        if cleaning.largest and parts:
            parts = [max(parts, key=np.sum)]
        for part in parts:
            result[part] = index
    return result


cleanings = st.builds(
    Cleaning,
    min_area=st.sampled_from([0, 1, 2, 3, "2.5", "10%", "4 %"]),
    largest=st.booleans(),
    fill_holes=st.booleans(),
)
maps = masks((7, 8)).flatmap(
    lambda one: masks((7, 8)).map(lambda two: np.where(one, 1, np.where(two, 2, 0)).astype("uint8"))
)


@unhurried
@given(maps, cleanings)
def test_class_maps_are_cleaned_as_slowly_by_hand(class_map, cleaning):
    class_map[0, 3] = 255
    before = class_map.copy()
    np.testing.assert_array_equal(
        cleaning.class_map(class_map, 2), cleaned_slowly(class_map, cleaning)
    )
    np.testing.assert_array_equal(class_map, before)


@unhurried
@given(maps, cleanings)
def test_regions_are_cleaned_as_their_class_map(class_map, cleaning):
    regions = [
        Region(name, pack(part), score=0.5)
        for index, name in enumerate(NAMES, start=1)
        for part in parts_of(class_map == index)
    ]
    file = LabelledFile("a.jpg", 7, 8, tuple(regions), presence={"cat": 0.9, "big dog": 0.1})
    found = cleaning.regions(file)
    np.testing.assert_array_equal(found.class_map(NAMES), cleaned_slowly(class_map, cleaning))
    assert all(region.score == 0.5 for region in found.regions)
    assert all(len(parts_of(region.mask.to_array())) == 1 for region in found.regions)
    assert found.presence == file.presence


def test_a_hole_with_another_class_stays_and_one_with_the_same_is_filled():
    ring = mask_of(["#########", "#...#...#", "#...#...#", "#...#...#", "#########"])
    inner = mask_of([".........", ".........", "..#......", ".........", "........."])
    other = mask_of([".........", ".........", "......#..", ".........", "........."])
    regions = (
        Region("cat", pack(ring), score=0.8),
        Region("cat", pack(inner), score=0.1),
        Region("big dog", pack(other), score=0.3),
    )
    cat, dog = Cleaning(fill_holes=True).regions(LabelledFile("a.jpg", 5, 9, regions)).regions
    full = ring.copy()
    full[:, :4] = True
    np.testing.assert_array_equal(cat.mask.to_array(), full)
    pixels = ring.sum()
    assert cat.score == pytest.approx((0.8 * pixels + 0.1) / (pixels + 1), abs=1e-4)
    assert dog == regions[2]
    np.testing.assert_array_equal(filled(ring, np.zeros_like(ring)), np.ones_like(ring))


@pytest.mark.parametrize(
    ("area", "pixels"),
    [(0, 0), (20, 20), ("20", 20), ("0.1%", 0.2), (" 50 % ", 100), (2.5, 2.5), ("100%", 200)],
)
def test_areas_are_pixels_or_shares_of_the_image(area, pixels):
    assert least_area(area, (10, 20)) == pytest.approx(pixels)


@pytest.mark.parametrize("area", ["", "-1", -1, "many", "1e9", "101%", "nan", float("inf"), "%"])
def test_other_areas_are_refused(area):
    with pytest.raises(UsageError, match=r"The least area must be .*"):
        Cleaning(min_area=area)
