import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.evaluation.metrics import FewShotIoU, confidence_interval

THRESHOLDS = (0.2, 0.5, 0.9)


@given(seed=st.integers(0, 10**6), images=st.integers(1, 8))
def test_accumulated_miou_equals_the_plain_formula(seed, images):
    rng = np.random.default_rng(seed)
    classes = ("a", "b", "c")
    meter = FewShotIoU(classes, THRESHOLDS)
    seen = []
    for _ in range(images):
        name = str(rng.choice(classes))
        # Scores on the thresholds themselves are the awkward case.
        score = rng.choice(np.array([0, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0], np.float32), (5, 7))
        truth = rng.random((5, 7)) < 0.4
        meter.add(name, score, truth.astype(np.uint8))
        seen.append((name, score, truth))
    for column, threshold in enumerate(THRESHOLDS):
        ious = []
        for name in classes:
            own = [(s >= np.float32(threshold), t) for n, s, t in seen if n == name]
            inter = sum(int((p & t).sum()) for p, t in own)
            union = sum(int((p | t).sum()) for p, t in own)
            if any(t.any() or (s >= np.float32(0.2)).any() for n, s, t in seen if n == name):
                ious.append(inter / union if union else np.nan)
        if ious and not np.isnan(ious).any():
            assert meter.miou(column) == pytest.approx(np.mean(ious))


def test_classes_that_never_occurred_do_not_count():
    meter = FewShotIoU(("a", "b"))
    truth = np.array([[True, False]])
    meter.add("a", truth.astype(np.float32), truth.astype(np.uint8))
    assert meter.miou() == 1.0
    assert meter.miou(unseen=0) == 0.5


def test_miou_is_not_the_mean_over_images():
    meter = FewShotIoU(("a",))
    big, small = np.ones((1, 9), bool), np.eye(1, 9, dtype=bool)
    meter.add("a", big.astype(np.float32), big.astype(np.uint8))
    meter.add("a", np.zeros((1, 9), np.float32), small.astype(np.uint8))
    assert meter.miou() == pytest.approx(9 / 10)


def test_nothing_and_shapes_that_differ_are_refused():
    for figure in (FewShotIoU.miou, FewShotIoU.fb_iou):
        with pytest.raises(UsageError, match="no episodes"):
            figure(FewShotIoU(("a",)))
    with pytest.raises(UsageError, match="shape"):
        FewShotIoU(("a",)).add("a", np.zeros((2, 2), np.float32), np.zeros((2, 3), np.uint8))


def test_interval_is_students():
    mean, half = confidence_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
    assert np.isnan(confidence_interval([1.0])[1])


def _plain(episodes, classes):
    """mIoU, FB-IoU and the classes' IoU from single pixels, as the formulas are written."""
    counts = {c: {"fi": 0, "fu": 0, "bi": 0, "bu": 0} for c in classes}
    for name, prediction, truth in episodes:
        for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
            if t == 255:
                continue
            counts[name]["fi"] += bool(p and t == 1)
            counts[name]["fu"] += bool(p or t == 1)
            counts[name]["bi"] += bool(not p and t == 0)
            counts[name]["bu"] += bool(not p or t == 0)
    ious = {c: n["fi"] / n["fu"] for c, n in counts.items() if n["fu"]}
    pooled = {key: sum(n[key] for n in counts.values()) for key in ("fi", "fu", "bi", "bu")}
    parts = [pooled[i] / pooled[u] for i, u in (("fi", "fu"), ("bi", "bu")) if pooled[u]]
    return np.mean(list(ious.values())) if ious else None, np.mean(parts), ious


def _random_episodes(rng, count, classes):
    return [
        (
            str(rng.choice(classes)),
            rng.random((4, 6)) < rng.random(),
            rng.choice(np.array([0, 0, 1, 255], np.uint8), (4, 6)),
        )
        for _ in range(count)
    ]


@given(seed=st.integers(0, 10**6), count=st.integers(1, 7))
def test_few_shot_metrics_equal_the_plain_formulas(seed, count):
    classes = ("a", "b", "c")
    episodes = _random_episodes(np.random.default_rng(seed), count, classes)
    meter = FewShotIoU(classes)
    for episode in episodes:
        meter.add(*episode)
    miou, fb_iou, ious = _plain(episodes, classes)
    if miou is None:
        with pytest.raises(UsageError, match="no episodes"):
            meter.miou()
    else:
        assert meter.miou() == pytest.approx(miou)
    assert meter.fb_iou() == pytest.approx(fb_iou)
    for name, value in zip(classes, meter.per_class(), strict=True):
        assert np.isnan(value) if name not in ious else value == pytest.approx(ious[name])


@given(seed=st.integers(0, 10**6), data=st.data())
def test_neither_order_nor_grouping_changes_the_counts(seed, data):
    classes = ("a", "b")
    episodes = _random_episodes(np.random.default_rng(seed), 6, classes)
    forward = FewShotIoU(classes)
    for episode in episodes:
        forward.add(*episode)
    split = data.draw(st.integers(0, 6))
    parts = (FewShotIoU(classes), FewShotIoU(classes))
    for number, episode in enumerate(data.draw(st.permutations(episodes))):
        parts[number >= split].add(*episode)
    parts[0].merge(parts[1])
    assert np.array_equal(parts[0].intersection, forward.intersection)
    assert np.array_equal(parts[0].union, forward.union)


def test_ignored_pixels_change_nothing():
    truth = np.array([[1, 0, 255, 255]], np.uint8)
    meters = []
    for ignored in (False, True):
        meter = FewShotIoU(("a",))
        meter.add("a", np.array([[True, True, ignored, ignored]]), truth)
        meters.append(meter)
    assert meters[0].per_class()[0] == meters[1].per_class()[0] == 0.5
    assert meters[0].fb_iou() == meters[1].fb_iou() == 0.25


def test_fb_iou_pools_the_classes_before_it_divides():
    meter = FewShotIoU(("big", "small"))
    meter.add("big", np.ones((1, 8), bool), np.ones((1, 8), np.uint8))
    meter.add("small", np.zeros((1, 8), bool), np.eye(1, 8, dtype=np.uint8))
    assert meter.miou() == 0.5
    assert meter.fb_iou() == pytest.approx((8 / 9 + 7 / 8) / 2)


@pytest.mark.parametrize("value", [2, 254])
def test_a_truth_with_other_values_or_shapes_is_refused(value):
    meter = FewShotIoU(("a",))
    with pytest.raises(UsageError, match="0, 1 and 255"):
        meter.add("a", np.zeros((1, 2), bool), np.array([[0, value]], np.uint8))
    with pytest.raises(UsageError, match="shape"):
        meter.add("a", np.zeros((1, 2), bool), np.zeros((2, 1), np.uint8))
    with pytest.raises(UsageError, match="not counted"):
        meter.add("b", np.zeros((1, 2), bool), np.zeros((1, 2), np.uint8))
    with pytest.raises(UsageError, match="same classes"):
        meter.merge(FewShotIoU(("b",)))
    with pytest.raises(UsageError, match="same classes"):
        meter.merge(FewShotIoU(("a",), (0.3,)))


def test_each_threshold_counts_as_the_mask_it_cuts_out_and_the_best_is_found():
    rng = np.random.default_rng(0)
    meter = FewShotIoU(("a", "b"), THRESHOLDS)
    masks = [FewShotIoU(("a", "b")) for _ in THRESHOLDS]
    for name in ("a", "b", "a"):
        score = rng.random((6, 5)).astype(np.float32)
        truth = rng.choice(np.array([0, 1, 255], np.uint8), (6, 5))
        meter.add(name, score, truth)
        for threshold, single in zip(THRESHOLDS, masks, strict=True):
            single.add(name, score >= threshold, truth)
    for at, single in enumerate(masks):
        assert np.array_equal(meter.intersection[..., at], single.intersection[..., 0])
        assert np.array_equal(meter.union[..., at], single.union[..., 0])
        assert meter.miou(at) == single.miou()
        assert meter.fb_iou(at) == single.fb_iou()
        assert np.array_equal(meter.per_class(at), single.per_class())
    best = max(range(len(THRESHOLDS)), key=meter.mious().__getitem__)
    assert meter.best_threshold() == THRESHOLDS[best]
