"""Who is answered: requests for the page's own address, from the page itself, after the login."""

import asyncio
import http.client
import re
import urllib.request
from urllib.parse import urlsplit

import pytest

from piclip.app.server import Settings, serve
from piclip.clip.checkpoints import BUILTIN_FOLDER
from piclip.errors import UsageError

pytest.importorskip("gradio", reason="needs the extra [app]")

from starlette.requests import Request

from piclip.app.guard import Guard, Hosts


def ask(served, path="/config", method="GET", body=None, **headers):
    """Status and text of one request; the headers are sent as they are."""
    address = urlsplit(served.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    # What streams has no end; its beginning is enough.
    text = "" if answer.length is None else answer.read().decode()
    connection.close()
    return answer.status, text


def endpoints(router):
    """Method and path of all that is served, gradio's own included."""
    for route in router.routes:
        if hasattr(route, "original_router"):  # how FastAPI keeps one router within another
            yield from endpoints(route.original_router)
        else:
            yield from ((method, route.path) for method in route.methods)


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


@pytest.fixture(scope="module")
def closed():
    with serve(Settings(model=str(BUILTIN_FOLDER), login=("anna", "secret"))) as served:
        yield served


def test_a_tab_that_is_closed_while_it_sends_a_picture_is_no_error():
    sent = iter([{"type": "http.request", "body": b"half", "more_body": True}])

    async def receive():
        return next(sent, {"type": "http.disconnect"})

    async def upload(scope, receive, send):
        await Request(scope, receive).body()

    scope = {"type": "http", "method": "POST", "path": "/", "server": ("127.0.0.1", 7860)}
    scope["headers"] = [(b"host", b"localhost:7860")]
    asyncio.run(Guard(upload, Hosts("127.0.0.1"), login=False)(scope, receive, None))


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


FORM = {"/", "/login", "/login/", "/theme.css", "/gradio_api/theme.css", "/favicon.ico"}
"""What the form for the login consists of, besides the folders in which gradio keeps its own."""

FOLDERS = ("/assets/", "/static/", "/svelte/")


def test_without_login_nothing_answers_but_the_form_for_it(closed):
    found = set(endpoints(closed.page.app))
    for known in ("/openapi.json", "/config", "/logout", "/gradio_api/queue/join"):
        assert known in {path for _, path in found}  # or not everything was found
    for path in ("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/heartbeat/{session_hash}"):
        assert path in {path for _, path in found}
    answering = set()
    for method, path in sorted(found):
        filled = re.sub(r"\{.*?\}", "1", path)
        status, text = ask(closed, filled, method)
        if status != 401:
            answering.add(path)
        elif method != "HEAD":
            assert "Not authenticated" in text
    assert {path for path in answering if not path.startswith(FOLDERS)} == FORM


def test_without_login_the_form_gets_all_that_it_loads(closed):
    _, page = ask(closed, "/")
    loaded = re.findall(r'(?:src|href)="\.?(/[^"]+\.(?:js|css))"', page)
    assert len(loaded) >= 2  # a script and its style
    for path in (*loaded, "/theme.css", "/static/img/logo.svg"):
        assert ask(closed, path)[0] == 200


def test_without_login_what_is_not_there_is_not_told(closed):
    for path in ("/nowhere", "/assets", "/gradio_api/x", "/gradio_api/assets/x", "/login/x"):
        assert ask(closed, path)[0] == 401
    for path in ("/static/../config", "/assets/%2e%2e/config", "//config", "/login"):
        assert ask(closed, path)[0] in {401, 403, 404}


def test_the_form_for_the_login_tells_nothing_of_the_page(closed):
    for query in ("", "?all_endpoints=true"):
        status, text = ask(closed, f"/{query}")
        assert status == 200 and "auth_required" in text
        assert str(BUILTIN_FOLDER) not in text


def test_after_the_login_everything_answers(closed):
    form = "username=anna&password={}"
    kind = "application/x-www-form-urlencoded"
    assert ask(closed, "/login", "POST", form.format("wrong"), Content_Type=kind)[0] == 400
    sent = urllib.request.Request(f"{closed.url}login", form.format("secret").encode())
    with urllib.request.urlopen(sent, timeout=20) as answer:
        cookies = answer.headers.get_all("set-cookie")
    name, value = next(c for c in cookies if "unsecure" in c).split(";")[0].split("=")
    for path in ("/config", "/openapi.json", "/gradio_api/info", "/gradio_api/heartbeat/1"):
        assert ask(closed, path, Cookie=f"{name}={value}")[0] == 200
        assert ask(closed, path, Cookie=f"{name}=other")[0] == 401
        assert ask(closed, path, Cookie=f"other={value}")[0] == 401
    evil = f"evil.example:{port(closed)}"
    assert ask(closed, Cookie=f"{name}={value}", Host=evil)[0] == 421
