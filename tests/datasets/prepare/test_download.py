"""Downloads against a local server that breaks off, lies and refuses."""

import errno
import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from piclip.datasets.prepare import download as downloads
from piclip.datasets.prepare.download import Archive, download, download_archive
from piclip.datasets.prepare.unpack import unpack
from piclip.errors import OutputError, PiclipError, UsageError

CONTENT = bytes(range(256)) * 4000  # 1 MB
PART = ".file.bin.part"


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``breaks`` answers end early, after ``after`` bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file.bin": CONTENT}
        self.breaks, self.after, self.ranges = 0, 300_000, True
        self.asked = []

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and self.server.ranges and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked and self.server.ranges:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            start = 0
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            content = content[: start + self.server.after]
        self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "_PAUSE", 0)
    monkeypatch.setattr(downloads, "_CHUNK", 100_000)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def md5(content):
    return hashlib.md5(content).hexdigest()


def archive_at(*urls, content=CONTENT, **fields):
    return Archive("file.bin", urls, md5(content), len(content), packed=False, **fields)


def fetch(url, folder, **options):
    return download_archive(archive_at(url), folder, **options).read_bytes()


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks = 2
    told = []
    fetch(server.url(), tmp_path, progress=lambda label, done, total: told.append((done, total)))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-"]
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_another_run_goes_on_where_the_first_gave_up(server, tmp_path):
    server.breaks, server.after = 100, 0
    (tmp_path / PART).write_bytes(CONTENT[:1000])
    with pytest.raises(PiclipError, match="1000 bytes are kept"):
        fetch(server.url(), tmp_path)
    assert server.asked == ["bytes=1000-"] * 5
    server.breaks = 0
    assert fetch(server.url(), tmp_path) == CONTENT


def test_a_server_without_ranges_sends_everything_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / PART).write_bytes(b"something old")
    assert fetch(server.url(), tmp_path) == CONTENT


@pytest.mark.parametrize("excess", [0, 5])
def test_what_is_whole_stays_and_what_is_too_long_is_replaced(server, tmp_path, excess):
    (tmp_path / PART).write_bytes(CONTENT + b"!" * excess)
    assert fetch(server.url(), tmp_path) == CONTENT
    assert len(server.asked) == (0 if excess == 0 else 1)


def test_more_than_the_server_has_is_replaced(server, tmp_path):
    server.files["/file.bin"] = CONTENT[:2000]
    (tmp_path / PART).write_bytes(CONTENT[:3000])
    with pytest.raises(PiclipError, match="md5"):
        fetch(server.url(), tmp_path)
    assert server.asked == ["bytes=3000-", None]


def test_not_found_is_not_tried_again(server, tmp_path):
    with pytest.raises(PiclipError, match="404"):
        fetch(server.url("nothing"), tmp_path)
    assert len(server.asked) == 1


def test_no_server_at_all(server, tmp_path):
    url = server.url()
    server.server_close()
    server.shutdown()
    with pytest.raises(PiclipError, match="could not be downloaded"):
        fetch(url, tmp_path)


class FullDisk(io.FileIO):
    def write(self, data):
        super().write(data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_what_has_come(server, tmp_path, monkeypatch):
    def full(path, mode):
        return FullDisk(path, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fetch(server.url(), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(downloads, "_PAUSE", 0)
    assert (tmp_path / PART).read_bytes() == CONTENT[:1000]
    assert fetch(server.url(), tmp_path) == CONTENT


def test_the_checksum_decides(server, tmp_path):
    with pytest.raises(PiclipError, match="md5"):
        download_archive(archive_at(server.url(), content=b"other"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    found = download_archive(archive_at(server.url()), tmp_path)
    assert found == tmp_path / "file.bin"
    assert found.read_bytes() == CONTENT
    asked = len(server.asked)
    download_archive(archive_at(server.url()), tmp_path)  # there already: nothing is asked
    assert len(server.asked) == asked


def test_the_next_address_is_tried(server, tmp_path):
    found = download_archive(archive_at(server.url("nothing"), server.url()), tmp_path)
    assert found.read_bytes() == CONTENT


def test_ctrl_c_keeps_what_has_come(server, tmp_path, monkeypatch):
    def stop(label, done, total):
        raise KeyboardInterrupt

    monkeypatch.setitem(downloads.ARCHIVES, "pascal", (archive_at(server.url()),))
    with pytest.raises(PiclipError, match="Stopped"):
        download("pascal", tmp_path, stop)
    assert [path.name for path in tmp_path.iterdir()] == [".file.bin.part"]
    download("pascal", tmp_path)
    assert server.asked[-1] == "bytes=100000-"
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_too_small_a_disk_is_told_beforehand(server, tmp_path):
    huge = Archive("file.bin", (server.url(),), md5(CONTENT), 1 << 60)
    with pytest.raises(OutputError, match="MiB free"):
        download_archive(huge, tmp_path)
    assert server.asked == []


def packed(kind, members):
    """An archive of (name, content)."""
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as package:
            for name, content in members:
                package.writestr(name, content)
    else:
        with tarfile.open(fileobj=data, mode="w:gz") as package:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                package.addfile(entry, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_dataset_is_downloaded_and_unpacked_once(server, tmp_path, monkeypatch, kind):
    content = packed(kind, [("a/b.txt", b"text"), ("c.bin", CONTENT)])
    server.files["/data"] = content
    wanted = Archive("data", (server.url("data"),), md5(content), len(content))
    optional = Archive("list", (server.url("list"),), md5(b""), 1, packed=False, needed=False)
    monkeypatch.setitem(downloads.ARCHIVES, "coco", (wanted, optional))
    notes = download("coco", tmp_path)
    assert len(notes) == 1
    assert "404" in notes[0]
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"text"
    assert (tmp_path / "c.bin").read_bytes() == CONTENT
    (tmp_path / "archives" / "data").unlink()  # people may delete what is unpacked
    asked = len(server.asked)
    download("coco", tmp_path)
    assert len(server.asked) == asked + 1  # for the list only


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/out.txt", "C:\\out.txt"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, kind, name):
    (tmp_path / "archive").write_bytes(packed(kind, [(name, b"evil")]))
    with pytest.raises(PiclipError, match="outside of the folder"):
        unpack(tmp_path / "archive", tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "in"]
    assert list((tmp_path / "in").iterdir()) == []


def test_links_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as package:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        package.addfile(link)
        inside = tarfile.TarInfo("link/file")
        package.addfile(inside, io.BytesIO(b""))
    assert unpack(tmp_path / "archive", tmp_path / "in") == 1
    assert not (tmp_path / "in" / "link").is_symlink()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_damaged_archives(tmp_path, kind):
    whole = packed(kind, [("a.bin", CONTENT), ("b.bin", CONTENT)])
    (tmp_path / "archive").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PiclipError, match="damaged"):
        unpack(tmp_path / "archive", tmp_path / "in")
    assert not any(path.name.startswith(".") for path in (tmp_path / "in").iterdir())


def test_a_wrong_byte_in_a_zip_is_found(tmp_path):
    whole = bytearray(packed("zip", [("a.bin", CONTENT)]))
    whole[len(whole) // 2] ^= 1
    (tmp_path / "archive").write_bytes(whole)
    with pytest.raises(PiclipError, match="damaged"):
        unpack(tmp_path / "archive", tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_unpacking_goes_on(tmp_path):
    (tmp_path / "archive").write_bytes(packed("zip", [("a", b"1"), ("b", b"22")]))

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "archive", tmp_path, stop)
    first = (tmp_path / "a").stat().st_mtime_ns
    assert unpack(tmp_path / "archive", tmp_path) == 2
    assert (tmp_path / "a").stat().st_mtime_ns == first
    assert (tmp_path / "b").read_bytes() == b"22"


def test_an_unknown_dataset_lists_the_names(tmp_path):
    with pytest.raises(UsageError, match="pascal, coco"):
        download("imagenet", tmp_path)


def test_every_archive_has_an_address_and_a_checksum():
    for archives in downloads.ARCHIVES.values():
        for archive in archives:
            assert len(bytes.fromhex(archive.md5)) == 16
            assert all(url.endswith(archive.name) for url in archive.urls)
