"""Which labelled images are learned from, and that they are learned as by hand."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from piclip import FewShotSegmenter, Support
from piclip.annotation.fitted import (
    MOST_SUPPORTS,
    Lesson,
    choose_examples,
    spread,
    with_readable,
)
from piclip.errors import ImageError, UsageError
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask

DOT = RunLengthMask.from_array(np.ones((1, 1), dtype=np.bool_))


def dots(**classes):
    """Images of one pixel by name, with the classes labelled in them."""
    names = tuple(dict.fromkeys(name for shown in classes.values() for name in shown))
    files = [
        LabelledFile(path, 1, 1, tuple(Region(name, DOT) for name in shown))
        for path, shown in classes.items()
    ]
    return Labels(names, tuple(files))


def test_where_no_image_can_be_used_not_all_are_tried(tmp_path):
    mask = RunLengthMask.from_array(np.ones((4, 4), bool))
    files = [LabelledFile(f"{n:04}.png", 4, 4, (Region("cat", mask),)) for n in range(4000)]
    labels = Labels(("cat",), tuple(files))
    words = rf"None of {MOST_SUPPORTS} labelled images can be learned from, the first: .*0000\.png"
    with pytest.raises(UsageError, match=words):
        with_readable(labels, tmp_path)


def test_an_image_serves_the_classes_labelled_in_it_and_no_others():
    labels = dots(b=["cat", "dog"], c=[], a=["cat"])
    chosen = choose_examples(replace(labels, class_names=("dog", "none", "cat")))
    assert list(chosen) == ["dog", "cat"]
    assert [file.path for file in chosen["cat"]] == ["a", "b"]
    assert [file.path for file in chosen["dog"]] == ["b"]


def test_labels_without_a_region_are_refused():
    with pytest.raises(UsageError, match="None of the images is labelled"):
        choose_examples(Labels(("cat",), (LabelledFile("a", 1, 1),)))


@given(st.integers(1, 300), st.integers(2, 60))
def test_many_images_are_picked_at_equal_distances_with_both_ends(number, most):
    picked = spread(range(number), most)
    assert len(picked) == min(number, most)
    assert picked[0] == 0 and picked[-1] == number - 1
    steps = {after - before for before, after in pairwise(picked)}
    assert all(step >= 1 for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


def test_the_choice_does_not_depend_on_the_order_of_the_labels():
    labels = dots(**{f"{number:03}": ["cat"] for number in range(120)})
    backwards = replace(labels, images=labels.images[::-1])
    assert choose_examples(labels) == choose_examples(backwards)
    assert len(choose_examples(labels)["cat"]) == MOST_SUPPORTS


def test_the_segmenter_takes_as_many_as_are_chosen_and_not_one_more(segmenter):
    labelled = Support("missing.png", "missing.png")
    with pytest.raises(UsageError, match=f"1 to {MOST_SUPPORTS}"):
        segmenter.fit([labelled] * (MOST_SUPPORTS + 1), name="cat")
    with pytest.raises(ImageError, match="missing"):
        segmenter.fit([labelled] * MOST_SUPPORTS, name="cat")


def test_learning_is_fitting_on_every_labelled_mask(segmenter, scenes):
    Lesson(scenes.root, choose_examples(scenes.labels)).teach(segmenter)
    by_hand = FewShotSegmenter(segmenter.encoder)
    for name, numbers in (("star", [1]), ("cat", [0, 1, 2])):
        supports = [
            Support(scenes.root / f"photo{number}.png", scenes.labels.images[number].mask_of(name))
            for number in numbers
        ]
        by_hand.fit(supports, name=name)
    assert segmenter.classes == by_hand.classes == ("star", "cat")
    for name in by_hand.classes:
        mine, other = segmenter._memories[name], by_hand._memories[name]
        assert mine.shots == other.shots
        for field in ("tokens", "coverage", "texts", "agreement", "named", "level"):
            torch.testing.assert_close(getattr(mine, field), getattr(other, field))


def test_the_digest_is_of_contents_and_masks(scenes, tmp_path):
    chosen = choose_examples(scenes.labels)
    before = Lesson(scenes.root, chosen).digest()
    moved = scenes.root.rename(tmp_path / "elsewhere")
    assert Lesson(moved, chosen).digest() == before
    without = {"cat": [scenes.labels.images[3]]}
    assert Lesson(moved, chosen, without).digest() != before
    fewer = {"cat": chosen["cat"][:2]}
    assert Lesson(moved, fewer).digest() != before
    other = replace(chosen["star"][0], regions=(Region("star", chosen["cat"][0].regions[0].mask),))
    assert Lesson(moved, {**chosen, "star": [other]}).digest() != before
    Image.new("RGB", (128, 128)).save(moved / "photo2.png")
    assert Lesson(moved, chosen).digest() != before
    (moved / "photo2.png").unlink()
    with pytest.raises(ImageError, match=r"photo2\.png"):
        Lesson(moved, chosen).digest()
