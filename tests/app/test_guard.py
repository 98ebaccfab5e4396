"""Who is answered: requests for the page's own address, from the page itself, after the login."""

import http.client
from urllib.parse import urlsplit

import pytest

from piclip.app.server import Settings, serve
from piclip.errors import UsageError

pytest.importorskip("gradio", reason="needs the extra [app]")


def ask(served, path="/config", method="GET", **headers):
    """Status and text of one request; the headers are sent as they are."""
    address = urlsplit(served.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    answer = connection.getresponse()
    # What streams has no end; its beginning is enough.
    text = "" if answer.length is None else answer.read().decode()
    connection.close()
    return answer.status, text


def port(served):
    return urlsplit(served.url).port


@pytest.fixture(scope="module")
def served():
    with serve(Settings(allow_hosts=("piclip.example.org", "localhost:9000"))) as served:
        yield served


@pytest.fixture(scope="module")
def served_to_all():
    with serve(Settings(host="0.0.0.0")) as served:
        yield served


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "[::1]"])
def test_on_loopback_the_names_of_loopback_are_answered_at_its_port(served, name):
    assert ask(served, Host=f"{name}:{port(served)}")[0] == 200
    assert ask(served, Host=f"{name}:{port(served) + 1000}")[0] == 421
    assert ask(served, Host=name)[0] == 421


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/info", "/gradio_api/upload", "/theme.css", "/nowhere"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_was_made_to_point_here_is_refused_everywhere(served, path, method):
    name = f"evil.example:{port(served)}"
    status, text = ask(served, path, method, Host=name)
    assert status == 421
    assert f"not served as {name};" in text and f"--allow-host {name}." in text


@pytest.mark.parametrize(
    "host",
    ["", "192.168.1.5:{port}", "user@localhost:{port}", "localhost:{port}/", "localhost:٧٨٦٠",
     "evil.localhost:{port}", "localhost:{port}.evil.example", "127.0.0.1.evil.example:{port}"],
)  # fmt: skip
def test_other_hosts_are_refused_on_loopback(served, host):
    assert ask(served, Host=host.format(port=port(served)).encode())[0] == 421


@pytest.mark.parametrize(
    "host",
    ["piclip.example.org", "piclip.example.org:443", "Piclip.Example.Org:8", "localhost:9000"],
)
def test_names_that_were_allowed_are_answered(served, host):
    assert ask(served, Host=host)[0] == 200


def test_only_the_page_itself_may_call(served):
    own = f"localhost:{port(served)}"
    for origin, host, status in (
        (f"http://{own}", own, 200),
        ("https://piclip.example.org", "piclip.example.org", 200),
        ("https://piclip.example.org", own, 200),  # a proxy that does not pass the host on
        ("http://localhost:9000", "localhost:9000", 200),
        ("https://evil.example", own, 403),
        ("http://localhost:3000", own, 403),
        ("http://localhost", own, 403),
        (f"http://127.0.0.1:{port(served)}", own, 403),
        ("null", own, 403),
        ("", own, 403),
    ):
        answer = ask(served, Host=host, Origin=origin)
        assert answer[0] == status, (origin, host)
        assert status == 200 or answer[1] == "This page takes no requests from other web pages."


def test_where_others_are_let_in_addresses_in_numbers_are_answered_and_names_are_not(served_to_all):
    number = port(served_to_all)
    for host in ("localhost", "127.0.0.1", "192.168.1.5", "[fd00::1]"):
        assert ask(served_to_all, Host=f"{host}:{number}")[0] == 200
    for host in ("evil.example", "localhost.evil.example", "192.168.1.5.evil.example", "1.evil"):
        assert ask(served_to_all, Host=f"{host}:{number}")[0] == 421
    other = f"http://203.0.113.9:{number}"
    assert ask(served_to_all, Host=f"192.168.1.5:{number}", Origin=other)[0] == 403


def test_the_page_listens_on_loopback_of_ipv6_too():
    with serve(Settings(host="::1")) as served:
        assert served.url == f"http://[::1]:{port(served)}/"
        assert ask(served)[0] == 200
        assert ask(served, Host=f"evil.example:{port(served)}")[0] == 421


@pytest.mark.parametrize("name", ["", "https://piclip.example.org", "a b", "name:port"])
def test_a_name_to_allow_that_is_none_is_told(name):
    with pytest.raises(UsageError, match="--allow-host"), serve(Settings(allow_hosts=(name,))):
        pass


def test_a_page_behind_a_proxy_is_not_local():
    assert Settings().local and Settings(allow_hosts=("localhost:9000",)).local
    assert not Settings(allow_hosts=("piclip.example.org:8000",)).local
    assert not Settings(host="0.0.0.0").local
