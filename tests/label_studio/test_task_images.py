"""Where images of tasks may come from, and where not."""

import base64
import gzip
import tracemalloc

import httpx
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio

from piclip.errors import ImageError, UsageError
from piclip.label_studio import task_images
from piclip.label_studio.task_images import TaskImages

HEADERS = {"Authorization": f"Token {TOKEN}"}


@pytest.fixture
def host():
    """A Label Studio with one image."""
    fake = FakeLabelStudio()
    fake.files["/data/upload/1/a.png"] = b"the image"
    with fake.running():
        yield fake


@pytest.fixture
def elsewhere():
    """Another server, which serves its image to everybody."""
    fake = FakeLabelStudio()
    fake.answer = lambda path, query, token: (200, {}, b"from elsewhere")
    with fake.running():
        yield fake


@pytest.fixture
def fetch(host, tmp_path):
    """A function that gives the bytes of an address."""

    def fetch(address, *, task_id=3, url=host.url, **options):
        destination = tmp_path / "copied"
        found = TaskImages(url, headers=lambda: HEADERS, **options)
        try:
            found.copy(address, task_id, destination)
            return destination.read_bytes()
        except ImageError:
            assert not destination.exists()
            raise
        finally:
            found.close()

    return fetch


@pytest.mark.parametrize(
    "address",
    ["/data/upload/1/a.png", "upload/1/a.png", "/upload/1/a.png", "{host}/data/upload/1/a.png"],
)
def test_label_studio_is_asked_with_the_token(host, fetch, address):
    assert fetch(address.format(host=host.url)) == b"the image"
    assert host.asked == [("/data/upload/1/a.png", HEADERS["Authorization"])]


def test_label_studio_below_a_path(host, fetch):
    host.files["/label/data/upload/1/b.png"] = b"below"
    assert fetch("/data/upload/1/b.png", url=f"{host.url}/label/") == b"below"


def test_cloud_storages_are_reached_through_label_studio(host, fetch, elsewhere):
    uri = "s3://bucket/a b.png"
    name = base64.urlsafe_b64encode(uri.encode()).decode()
    host.redirects["/tasks/3/presign/"] = f"{elsewhere.url}/bucket/a.png?signature=x"
    with pytest.raises(ImageError, match=r"127\.0\.0\.1 are not fetched.*--allow-host 127"):
        fetch(uri)
    assert elsewhere.asked == []
    assert fetch(uri, allowed_hosts=[httpx.URL(elsewhere.url).netloc.decode()]) == b"from elsewhere"
    assert host.asked[-1][0] == f"/tasks/3/presign/?fileuri={name}"
    # The token stays at home.
    assert elsewhere.asked == [("/bucket/a.png?signature=x", None)]


def test_other_hosts_are_asked_only_if_allowed_and_without_the_token(fetch, elsewhere):
    address = f"{elsewhere.url}/x.png"
    port = httpx.URL(elsewhere.url).port
    for allowed in ([], ["127.0.0.1"], ["example.org"], [f"127.0.0.1:{port + 1}"]):
        with pytest.raises(ImageError, match="are not fetched; if you trust it, add --allow-host"):
            fetch(address, allowed_hosts=allowed)
    assert elsewhere.asked == []
    assert fetch(address, allowed_hosts=[f"127.0.0.1:{port}"]) == b"from elsewhere"
    assert elsewhere.asked == [("/x.png", None)]


def test_an_allowed_host_whose_name_begins_like_label_studio(fetch, elsewhere):
    base = elsewhere.url[:-1]  # one digit of the port less
    allowed = [httpx.URL(elsewhere.url).netloc.decode()]
    assert fetch(f"{elsewhere.url}/x.png", url=base, allowed_hosts=allowed) == b"from elsewhere"
    assert elsewhere.asked == [("/x.png", None)]


def test_no_address_is_mistaken_for_label_studio(host, fetch, elsewhere):
    port = httpx.URL(elsewhere.url).port
    for address in (
        f"{host.url}@127.0.0.1:{port}/x.png",
        f"http://127.0.0.1:{port}#{host.url}/x.png",
        f"//127.0.0.1:{port}/x.png",
        f"/\\127.0.0.1:{port}/x.png",
        f"http:127.0.0.1:{port}/x.png",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x.png",
        "x.png",
        "http://[::1",
        "",
    ):
        with pytest.raises(ImageError):
            fetch(address)
    assert elsewhere.asked == []


def test_redirects_are_followed_a_few_times(host, fetch):
    host.redirects["/data/b.png"] = "/data/upload/1/a.png"
    assert fetch("/data/b.png") == b"the image"
    host.redirects["/data/c.png"] = "/data/c.png"
    with pytest.raises(ImageError, match="redirected more than 3 times"):
        fetch("/data/c.png")


def test_local_files_are_read_from_their_folder_only(host, fetch, tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b.png").write_bytes(b"local")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    for address in ("?d=sub/a%20b.png", "?d=/sub/a b.png", "?d=x&d=sub%2Fa%20b.png"):
        assert fetch(f"/data/local-files/{address}", local_files=root) == b"local"
    full = f"{host.url}/data/local-files/?d=sub/a%20b.png"
    assert fetch(full, local_files=root) == b"local"
    for path in ("../secret.png", "..%2Fsecret.png", "sub/../../secret.png", "link.png"):
        with pytest.raises(ImageError, match="leads out of the folder"):
            fetch(f"/data/local-files/?d={path}", local_files=root)
    with pytest.raises(ImageError, match="no such file"):
        fetch("/data/local-files/?d=gone.png", local_files=root)
    for nothing in ("?d=", "", "?d=sub", "?d=a%00b"):
        with pytest.raises(ImageError, match="cannot be read"):
            fetch(f"/data/local-files/{nothing}", local_files=root)
    assert host.asked == []


def test_local_files_come_from_label_studio_without_the_folder(host, fetch):
    host.files["/data/local-files/"] = b"served"
    assert fetch("/data/local-files/?d=a.png") == b"served"
    assert host.asked == [("/data/local-files/?d=a.png", HEADERS["Authorization"])]


def test_images_in_the_address(fetch):
    content = base64.b64encode(b"inside").decode()
    assert fetch(f"data:image/png;base64,{content}") == b"inside"
    for damaged in (f"data:image/png;base64,{content}!", f"data:text/html;base64,{content}"):
        with pytest.raises(ImageError, match="base64"):
            fetch(damaged)


def test_large_files_are_refused(host, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(task_images, "MOST_BYTES", 8)
    (tmp_path / "large.png").write_bytes(b"the image")
    content = base64.b64encode(b"the image").decode()
    for address in (
        *("/data/upload/1/a.png", "/data/local-files/?d=large.png"),
        f"data:image/png;base64,{content}",
    ):
        with pytest.raises(ImageError, match="larger than"):
            fetch(address, local_files=tmp_path)


def test_failures_are_told(host, fetch):
    with pytest.raises(ImageError, match="the server answers 404"):
        fetch("/data/upload/1/gone.png")
    with pytest.raises(ImageError, match="lies in Label Studio, whose address is not known"):
        fetch("/data/upload/1/a.png", url=None)
    with pytest.raises(ImageError, match="no address"):
        fetch("s3://bucket/a.png", task_id=None)
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch("/data/upload/1/a.png", url="http://127.0.0.1:1")


@pytest.mark.parametrize("host", ["", "http://x.org", "a@x.org", "x.org/path", "x.org:port"])
def test_allowed_hosts_are_hosts(host):
    with pytest.raises(UsageError, match="is no host"):
        TaskImages(None, allowed_hosts=[host])


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/api/users/",
        "/data/upload/../../admin",
        "/data/upload/%2e%2e/%2E%2e/admin",
        "/data/upload/..%2f..%2fadmin",
        "/data/upload/%252e%252e/%252e%252e/admin",
        "/data/upload/..\\..\\admin",
        "/data/upload/..%5c..%5cadmin",
        "/data/upload/..;/..;/admin",
        "upload/../../admin",
        "//data/upload/1/a.png",
        "/tasks/3/resolve/../../../admin",
        "/tasks/3/",
        "/projects/1/delete",
        "/database",
    ],
)
def test_the_token_goes_only_where_files_are_served(host, fetch, path):
    host.redirects["/data/moved.png"] = path
    for address in (path, f"{host.url}{path}", "/data/moved.png"):
        with pytest.raises(ImageError):
            fetch(address)
    assert {asked for asked, _ in host.asked} == {"/data/moved.png"}
    with pytest.raises(ImageError, match="the server answers"):
        fetch(f"{host.url}/admin", allowed_hosts=[httpx.URL(host.url).netloc.decode()])
    assert host.asked[-1] == ("/admin", None)


@pytest.mark.parametrize(
    "path", ["/tasks/3/resolve/?fileuri=x", "/projects/1/presign/", "/data/a%2520b/50%25.png"]
)
def test_the_token_goes_to_every_route_of_files(host, fetch, path):
    with pytest.raises(ImageError, match="the server answers 404"):
        fetch(path)
    assert host.asked == [(path, HEADERS["Authorization"])]


def test_label_studio_below_a_path_keeps_its_token_there(host, fetch):
    with pytest.raises(ImageError, match="serves no files there"):
        fetch("/data/../../data/upload/1/a.png", url=f"{host.url}/label")
    assert host.asked == []


def test_addresses_with_a_user_name_are_refused(host, fetch):
    with pytest.raises(ImageError, match="without a user name"):
        fetch(f"{host.url.replace('//', '//anna:x@')}/data/upload/1/a.png")
    assert host.asked == []


@pytest.fixture
def encoded(host):
    """A function that serves bytes as they are, with a Content-Encoding."""

    def encoded(content, coding):
        host.answer = lambda path, query, token: (200, {"Content-Encoding": coding}, content)

    return encoded


def test_gzip_is_decoded_and_damage_told(encoded, fetch):
    content = gzip.compress(bytes(200_000) + b"the end")
    encoded(content, "gzip")
    assert fetch("/data/upload/1/a.png") == bytes(200_000) + b"the end"
    encoded(content[:-9], "gzip")
    with pytest.raises(ImageError, match="cut off"):
        fetch("/data/upload/1/a.png")
    encoded(b"no gzip", "gzip")
    with pytest.raises(ImageError, match="damaged"):
        fetch("/data/upload/1/a.png")


@pytest.mark.parametrize(
    ("layers", "coding", "sentence"),
    [(1, "gzip", "larger than"), (2, "gzip, gzip", "in gzip once"), (1, "br", "in gzip once")],
)
def test_a_bomb_takes_no_memory(encoded, fetch, monkeypatch, layers, coding, sentence):
    monkeypatch.setattr(task_images, "MOST_BYTES", 1_000_000)
    bomb = bytes(64_000_000)
    for _ in range(layers):
        bomb = gzip.compress(bomb)
    encoded(bomb, coding)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=sentence):
            fetch("/data/upload/1/a.png")
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
