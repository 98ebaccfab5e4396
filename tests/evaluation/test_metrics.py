import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.evaluation.metrics import ClassIoU, confidence_interval

THRESHOLDS = (0.2, 0.5, 0.9)


@given(seed=st.integers(0, 10**6), images=st.integers(1, 8))
def test_accumulated_miou_equals_the_plain_formula(seed, images):
    rng = np.random.default_rng(seed)
    classes = ("a", "b", "c")
    meter = ClassIoU(classes, THRESHOLDS)
    seen = []
    for _ in range(images):
        name = str(rng.choice(classes))
        # Scores on the thresholds themselves are the awkward case.
        score = rng.choice(np.array([0, 0.1, 0.2, 0.5, 0.7, 0.9, 1.0], np.float32), (5, 7))
        truth = rng.random((5, 7)) < 0.4
        meter.add(name, score, truth)
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
            assert meter.miou()[column] == pytest.approx(np.mean(ious))


def test_classes_that_never_occurred_do_not_count():
    meter = ClassIoU(("a", "b"))
    truth = np.array([[True, False]])
    meter.add("a", truth.astype(np.float32), truth)
    assert meter.miou()[0] == 1.0


def test_miou_is_not_the_mean_over_images():
    meter = ClassIoU(("a",))
    big, small = np.ones((1, 9), bool), np.eye(1, 9, dtype=bool)
    meter.add("a", big.astype(np.float32), big)
    meter.add("a", np.zeros((1, 9), np.float32), small)
    assert meter.miou()[0] == pytest.approx(9 / 10)


def test_nothing_and_shapes_that_differ_are_refused():
    with pytest.raises(UsageError, match="no images"):
        ClassIoU(("a",)).miou()
    with pytest.raises(UsageError, match="shape"):
        ClassIoU(("a",)).add("a", np.zeros((2, 2), np.float32), np.zeros((2, 3), bool))


def test_interval_is_students():
    mean, half = confidence_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
    assert np.isnan(confidence_interval([1.0])[1])
