"""What is finished survives: interrupted lines, later lines, damage, other settings."""

import os
import resource
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piclip.annotation.journal import Entry, Journal
from piclip.annotation.queries import stamp_of
from piclip.annotation.sinks import Proposal, certainty_of
from piclip.errors import ImageError, OutputError, UsageError
from piclip.formats import LabelledFile, Region, RunLengthMask
from piclip.results import Segmentation

SETTINGS = {"model": "a", "labels": {"cat": ["b"]}, "threshold": None}
FIRST = Entry("in/a\udcff.png", (5, 6), {"mask": "dög.png", "shares": {"cat": 0.5}})
SECOND = Entry("b.png", (7, 8), {"mask": "b.png"})
FAILED = Entry("c.png", None, reason="c.png: no such file; check the path.")
ALL = (SECOND, FIRST, FAILED)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.json.journal"


@pytest.fixture
def journal(path):
    """Open a journal, with these lines if it is new; all are closed at the end."""
    opened = []

    def open_it(*entries, settings=SETTINGS, **options):
        new = Journal(path, settings, **options)
        opened.append(new)
        for entry in entries:
            new.append(entry)
        return new

    yield open_it
    for each in opened:
        each.close()


def test_everything_comes_back_after_reopening(journal):
    for opened in (journal(*ALL), journal()):
        assert list(opened.entries()) == list(ALL)
        assert opened.read(FIRST.path) == FIRST
        assert opened.has("b.png", (7, 8))
        assert not opened.has("b.png", (7, 9))
        assert not opened.has("d.png", (7, 8))
        assert opened.reason("c.png") == FAILED.reason
        assert opened.reason("b.png") is None
        assert ("c.png" in opened, "d.png" in opened, len(opened)) == (True, False, 3)


def test_what_was_proposed_comes_back(journal):
    mask = RunLengthMask.from_array(np.array([[1, 0, 0], [1, 0, 1]], dtype=np.bool_))
    regions = (Region("cat", mask, score=0.5), Region("dög", mask, score=0.25))
    file = LabelledFile("a.png", 2, 3, regions, id=4, source="s3://a", presence={"cat": 0.5})
    proposal = Proposal(file, 0.25)
    opened = journal(Entry("a.png", (1, 2), proposal.found()))
    assert Proposal.of("a.png", opened.read("a.png").found) == proposal


def test_the_later_line_of_an_image_counts_and_keeps_its_place(journal):
    again = Entry("b.png", (2, 2), {"mask": "b.jpg.png"})
    for opened in (journal(SECOND, FIRST, again), journal()):
        assert list(opened.entries()) == [again, FIRST]
        assert opened.has("b.png", (2, 2))
        assert not opened.has("b.png", SECOND.stamp)
    journal(Entry("b.png", (2, 2), reason="broken."))
    assert not journal().has("b.png", (2, 2))


def test_a_line_cut_off_anywhere_costs_that_image_only(journal, path):
    journal(SECOND)
    kept = path.stat().st_size
    journal(FIRST)
    whole = path.read_bytes()
    for end in range(kept, len(whole)):
        path.write_bytes(whole[:end])
        opened = journal()
        assert opened.has("b.png", (7, 8))
        assert FIRST.path not in opened
        opened.append(FIRST)
        assert path.read_bytes() == whole


def test_a_damaged_byte_is_told_or_costs_the_last_image_only(journal, path):
    journal(*ALL)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        before = path.read_bytes()
        if place == last - 1:  # without this line's end the next is no line either
            assert list(journal().entries()) == [SECOND]
        elif place < last:
            with pytest.raises(UsageError, match="no journal of an earlier run, or is damaged"):
                journal()
            assert path.read_bytes() == before
        else:
            assert list(journal().entries()) == [SECOND, FIRST]


def test_zeros_that_a_power_cut_left_are_dropped(journal, path):
    journal(*ALL)
    with path.open("ab") as lines:
        lines.write(b"\0" * 5000)
    opened = journal(SECOND)
    assert list(opened.entries()) == list(ALL)
    assert list(journal().entries()) == list(ALL)


@pytest.mark.parametrize("key", SETTINGS)
def test_other_settings_are_refused_and_named(journal, path, key):
    journal(SECOND)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"other settings \({key}\).*--overwrite"):
        journal(settings={**SETTINGS, key: "other"})
    assert path.read_bytes() == before
    fresh = journal(settings={**SETTINGS, key: "other"}, overwrite=True)
    assert "b.png" not in fresh


def line(said):
    return b"%08x\t%b\n" % (zlib.crc32(said), said)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"photo", b"[]\n", b'{"images": []}\n', b"\xff\n", b'{"piclip annotate": 1}\n'),
        *(line(b'{"piclip": 9}\t{}'), line(b"[]\t[]"), line(b'{"piclip": 2}\t{}')),
    ],
)
def test_other_files_are_refused_and_stay(journal, path, content):
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no journal of an earlier run"):
        journal()
    assert path.read_bytes() == content


def test_a_full_disk_is_told_and_what_was_noted_before_stays(journal, path):
    opened = journal(SECOND)
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, hard))  # as if no more fits
    try:
        with pytest.raises(OutputError, match="free some space and run the same command again"):
            opened.append(FIRST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    opened.close()
    assert path.read_bytes() == whole
    assert list(journal(FIRST).entries()) == [SECOND, FIRST]


def test_a_journal_that_cannot_be_written_says_so(journal, path):
    opened = journal()
    path.unlink()
    for there in (lambda: None, path.mkdir):
        there()
        with pytest.raises(OutputError, match="was removed or its disk taken away"):
            opened.append(SECOND)
    with pytest.raises(UsageError, match="no journal of an earlier run"):
        journal()


def test_files_are_on_the_disk_before_the_journal_says_so(journal, path, tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(number):
        synced.append(Path(f"/proc/self/fd/{number}").readlink())
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    mask = tmp_path / "b.png"
    mask.write_bytes(b"mask")
    gone = tmp_path / "gone.png"
    opened = journal(Entry("b.png", (1, 2), {}, files=(mask, gone)))
    opened.close()
    assert synced == [path, mask, path]


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
