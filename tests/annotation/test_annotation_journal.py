"""What is finished survives: interrupted lines, later lines, other settings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piclip.annotation.journal import Journal, Proposal, stamp_of
from piclip.annotation.sinks import certainty_of
from piclip.errors import ImageError, OutputError, UsageError
from piclip.formats import LabelledFile, Region, RunLengthMask
from piclip.results import Segmentation

SETTINGS = {"model": "a", "labels": {"cat": ["b"]}, "threshold": None}


def proposal(path, *parts, **more):
    """Regions of a 2 x 3 image, each given as (class, score, left column)."""
    regions = []
    for name, score, column in parts:
        mask = np.zeros((2, 3), dtype=np.bool_)
        mask[:, column] = True
        regions.append(Region(name, RunLengthMask.from_array(mask), score=score))
    return Proposal(LabelledFile(path, 2, 3, tuple(regions), **more), 0.25)


FIRST = proposal("in/a\udcff.png", ("cat", 0.5, 0), ("dög", 0.25, 2), id=4, source="s3://a")
SECOND = proposal("b.png")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.json.journal"


def test_everything_comes_back_after_reopening(path):
    journal = Journal(path, SETTINGS)
    journal.append(FIRST, (5, 6))
    journal.append(SECOND, (7, 8))
    for opened in (journal, Journal(path, SETTINGS)):
        assert opened.read(FIRST.file.path) == FIRST
        assert opened.read("b.png") == SECOND
        assert opened.has("b.png", (7, 8))
        assert not opened.has("b.png", (7, 9))
        assert not opened.has("c.png", (7, 8))


def test_the_later_line_of_an_image_counts(path):
    journal = Journal(path, SETTINGS)
    journal.append(SECOND, (1, 1))
    journal.append(FIRST, (1, 1))
    again = proposal("b.png", ("cat", 0.75, 1))
    journal.append(again, (2, 2))
    for opened in (journal, Journal(path, SETTINGS)):
        assert opened.read("b.png") == again
        assert opened.has("b.png", (2, 2))


def test_a_line_cut_off_anywhere_costs_that_image_only(path):
    journal = Journal(path, SETTINGS)
    journal.append(SECOND, (7, 8))
    kept = path.stat().st_size
    journal.append(FIRST, (5, 6))
    whole = path.read_bytes()
    for end in range(kept, len(whole)):
        path.write_bytes(whole[:end])
        opened = Journal(path, SETTINGS)
        assert opened.has("b.png", (7, 8))
        assert not opened.has(FIRST.file.path, (5, 6))
        opened.append(FIRST, (5, 6))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("key", SETTINGS)
def test_other_settings_are_refused_and_named(path, key):
    Journal(path, SETTINGS).append(SECOND, (7, 8))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"other settings \({key}\).*--overwrite"):
        Journal(path, {**SETTINGS, key: "other"})
    assert path.read_bytes() == before
    fresh = Journal(path, {**SETTINGS, key: "other"}, overwrite=True)
    assert not fresh.has("b.png", (7, 8))


@pytest.mark.parametrize(
    "content", [b"", b"photo", b"[]\n", b'{"images": []}\n', b"\xff\n", b'{"piclip annotate": 9}\n']
)
def test_other_files_are_refused_and_stay(path, content):
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no journal of an earlier run"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == content


def test_damage_in_the_middle_is_told(path):
    Journal(path, SETTINGS).append(SECOND, (7, 8))
    with path.open("ab") as lines:
        lines.write(b'{"image": "c.png"}\n')
    with pytest.raises(UsageError, match="damaged"):
        Journal(path, SETTINGS)


def test_a_journal_that_cannot_be_written_says_so(path):
    journal = Journal(path, SETTINGS)
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="what is finished is kept"):
        journal.append(SECOND, (7, 8))


def test_the_stamp_of_a_missing_image(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        stamp_of(tmp_path / "missing.png")


@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.65, 1.0]), min_size=1, max_size=9),
    st.sampled_from([0.2, 0.42, 0.5, 0.9]),
)
def test_certainty_is_the_mean_score_of_what_is_proposed(values, threshold):
    score = np.array([values], dtype=np.float32)
    proposed = [value for value in values if np.float32(value) >= threshold]
    expected = sum(proposed) / len(proposed) if proposed else 1 - max(values)
    found = Segmentation(("cat",), np.zeros_like(score, np.uint8), score[None], None, None, "a")
    assert certainty_of(found.at_threshold(threshold)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("presence", "expected"),
    [((0.9, 0.1), (0.7 + 0.9) / 2), ((0.6, 0.1), 0.6), ((0.3, 0.1), 1 - 0.3), ((0.1, 0.6), 0.6)],
)
def test_a_score_counts_no_more_than_the_presence_of_its_class(presence, expected):
    scores = np.array([[[0.7, 0.9]], [[0.6, 0.8]]], dtype=np.float32)
    blank = np.zeros((1, 2), dtype=np.uint8)
    found = Segmentation(
        ("cat", "dog"), blank, scores, None, None, "a", presence=np.array(presence, np.float32)
    )
    assert certainty_of(found.at_threshold(0.5)) == pytest.approx(expected, abs=1e-6)
