"""Leave-one-out against a loop that fits and predicts by hand."""

from dataclasses import replace

import numpy as np
import pytest

from piclip import FewShotSegmenter, Support
from piclip.annotation.answers import How
from piclip.annotation.fitted import Lesson, choose_examples
from piclip.annotation.holdout import held_out_images, hold_out
from piclip.formats import LabelledFile, Labels, Region, RunLengthMask, from_segmentation
from piclip.formats.cleaning import Cleaning, kept


@pytest.fixture
def learned(segmenter, scenes):
    Lesson(scenes.root, choose_examples(scenes.labels)).teach(segmenter)
    return segmenter


def by_hand(segmenter, scenes, min_score=0.0, min_area=1):
    """Intersections and unions of cat, image by image; star is known where it is not held out."""
    counts = {}
    labelled = scenes.labels.labelled
    for out in labelled:
        trial = FewShotSegmenter(segmenter.encoder)
        for name in ("star", "cat"):
            others = [f for f in labelled if f.path != out.path and name in f.class_names]
            if others:
                trial.fit(
                    [Support(scenes.root / f.path, f.mask_of(name)) for f in others], name=name
                )
        (found,) = trial.predict([scenes.root / out.path])
        proposed = np.zeros(out.size, dtype=np.bool_)
        for region in from_segmentation(found, min_area=min_area).regions:
            if region.class_name == "cat" and region.score >= min_score:
                proposed |= region.mask.to_array()
        known = np.ones(out.size, bool) if out.ignore is None else ~out.ignore.to_array()
        truth = out.mask_of("cat")
        counts[out.path] = (proposed & truth & known).sum(), ((proposed | truth) & known).sum()
    return counts


@pytest.mark.parametrize(("min_score", "min_area"), [(0.0, 0), (0.6, 0), (0.0, "2%")])
def test_leave_one_out_is_fitting_without_the_image(learned, scenes, min_score, min_area):
    before = dict(learned._memories)
    measured = []
    star, cat = hold_out(
        learned,
        Lesson(scenes.root, choose_examples(scenes.labels)),
        How(),
        keep=lambda file: kept(file, min_score, Cleaning(min_area)),
        on_progress=measured.append,
    )
    counts = by_hand(learned, scenes, min_score, min_area)
    assert (cat.class_name, cat.labelled) == ("cat", 3)
    assert cat.ious == pytest.approx({path: a / b for path, (a, b) in counts.items()})
    assert cat.iou == pytest.approx(
        sum(a for a, _ in counts.values()) / sum(b for _, b in counts.values())
    )
    # The only star cannot be found without itself.
    assert (star.class_name, star.labelled, star.ious, star.iou) == ("star", 1, {}, None)
    assert measured == [1, 2, 3]
    assert learned._memories == before


def test_pixels_to_ignore_do_not_count(learned, scenes):
    half = np.zeros((128, 128), dtype=np.bool_)
    half[40:90] = True
    ignoring = [replace(f, ignore=RunLengthMask.from_array(half)) for f in scenes.labels.images]
    scenes.labels = replace(scenes.labels, images=tuple(ignoring))
    _, cat = hold_out(learned, Lesson(scenes.root, choose_examples(scenes.labels)), How())
    counts = by_hand(learned, scenes)
    assert cat.ious == pytest.approx({path: a / b for path, (a, b) in counts.items() if b})


def test_many_images_are_held_out_at_equal_distances_and_single_ones_never():
    dot = RunLengthMask.from_array(np.ones((1, 1), dtype=np.bool_))
    files = [
        LabelledFile(f"{n:02}", 1, 1, tuple(Region(c, dot) for c in names))
        for n, names in enumerate([["cat"]] * 28 + [["cat", "owl"]] + [["ant"], ["owl"]])
    ]
    held = held_out_images(choose_examples(Labels(("cat", "owl", "ant"), tuple(files))))
    assert [int(file.path) for file in held] == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 30]
