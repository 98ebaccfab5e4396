"""Files on this computer and behind URLs, by one way."""

import fsspec
import pytest

from piclip.errors import ImageError, OutputError, UsageError
from piclip.io import storage


@pytest.fixture(params=["path", "file", "memory"])
def place(request, tmp_path, memory):
    """A folder of each kind that a test can have."""
    folders = {
        "path": f"{tmp_path}/deep",
        "file": f"file://{tmp_path}/deep",
        "memory": "memory://bucket/deep",
    }
    return folders[request.param]


def put(place, content):
    with storage.new_file(place) as file:
        file.write_bytes(content)


def test_what_is_put_is_there_and_can_be_fetched(place, tmp_path):
    assert not storage.exists(f"{place}/a/b.txt")
    put(f"{place}/a/b.txt", b"one")
    put(f"{place}/a/b.txt", b"two")
    put(f"{place}/c.txt", b"three")
    assert storage.is_file(f"{place}/a/b.txt")
    assert not storage.is_file(f"{place}/a")
    assert storage.names(place) == ["a", "c.txt"]
    assert storage.names(f"{place}/nowhere") == []
    assert list(storage.files_below(place)) == ["c.txt", "a/b.txt"]
    copy = storage.fetch_all(place, tmp_path / "copy")
    assert (copy / "a" / "b.txt").read_bytes() == b"two"
    storage.put_all(copy, f"{place}/again")
    storage.fetch(f"{place}/again/c.txt", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_bytes() == b"three"
    storage.remove(place)
    storage.remove(place)
    assert storage.names(place) == []


@pytest.mark.parametrize("name", ["what?.png", "a*.png", "b[0].png", "50%20 #1.png", "~.png"])
def test_any_name_is_a_name_and_no_pattern(place, tmp_path, name):
    others = ["whatx.png", "ab.png", "b0.png"]
    for other in others:
        put(f"{place}/{other}", b"other")
    put(f"{place}/{name}", b"one")
    put(f"{place}/{name}", b"two")
    assert list(storage.files_below(place)) == sorted([*others, name])
    storage.fetch(f"{place}/{name}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"two"
    storage.remove(f"{place}/{name}")
    assert storage.names(place) == sorted(others)


def test_a_path_is_a_path_whatever_is_in_it(tmp_path):
    for name in ("a::b", "~", "c?d#e"):
        put(f"{tmp_path}/{name}/file.txt", b"one")
        assert list(storage.files_below(f"file://{tmp_path}/{name}")) == ["file.txt"]
        assert (tmp_path / name / "file.txt").read_bytes() == b"one"


def test_nobody_sees_half_a_file(place):
    put(f"{place}/a.txt", b"old")
    with pytest.raises(KeyboardInterrupt), storage.new_file(f"{place}/a.txt") as file:
        file.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert storage.names(place) == ["a.txt"]
    system, path = storage.file_system(f"{place}/a.txt")
    assert system.cat_file(path) == b"old"


def test_what_cannot_be_read_is_told_in_a_sentence(place, tmp_path, monkeypatch):
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        storage.fetch(f"{place}/gone.png", tmp_path / "copy")
    put(f"{place}/large.png", bytes(100))
    monkeypatch.setattr(storage, "_MOST_BYTES", 99)
    with pytest.raises(ImageError, match="more than 99 bytes"):
        storage.fetch(f"{place}/large.png", tmp_path / "copy")


@pytest.mark.parametrize("url", ["github://a/b", "x://a", "s3://a::memory://b"])
def test_other_kinds_of_urls_are_refused(url):
    with pytest.raises(UsageError, match="only URLs of s3, s3a, gs"):
        storage.exists(url)


def test_a_missing_library_is_named(monkeypatch):
    def missing(place):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(UsageError, match=r"pip install 'piclip\[s3\]'"):
        storage.exists("s3://bucket/a")


def test_a_storage_that_refuses_is_told_in_a_sentence(monkeypatch, memory):
    def refuses(self, *arguments, **options):
        raise RuntimeError("AccessDenied:\n  no")

    monkeypatch.setattr(type(memory), "put_file", refuses)
    with pytest.raises(OutputError, match="AccessDenied: no; check the address"):
        put("memory://bucket/a", b"")


def test_paths_below_a_folder():
    assert storage.joined("s3://b/c", "d/e.png") == "s3://b/c/d/e.png"
    assert storage.joined("s3://b/c", "gs://d/e.png") == "gs://d/e.png"
    assert storage.joined("/b", "file:///d/e.png") == "/d/e.png"
    assert storage.joined("/b", "/d/e.png") == "/d/e.png"


def test_a_folder_that_links_to_itself_is_gone_through_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("b")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert list(storage.files_below(str(tmp_path))) == ["a/b.txt"]
