"""``piclip app``: what its options mean for the page, and what it refuses before it serves."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from piclip.app import server


def test_the_options_reach_the_page(piclip, monkeypatch):
    asked = []

    @contextmanager
    def serve(settings):
        asked.append(settings)
        page = SimpleNamespace(block_thread=lambda: None)
        yield SimpleNamespace(url="http://127.0.0.1:7860/", page=page)

    monkeypatch.setattr(server, "serve", serve)
    ran = piclip("app")
    assert ran.code == 0 and "http://127.0.0.1:7860/" in ran.err and "Anybody" not in ran.err
    assert piclip("app", "--local-models", "--auth", "anna:secret").code == 0
    ran = piclip("app", "--allow-host", "a.example", "--allow-host", "localhost:9000")
    assert ran.code == 0 and "Anybody who reaches this address" in ran.err  # through the proxy
    assert piclip("app", "--model", "runs/pfenet", "--clip", "builtin").code == 0
    plain, local, behind, decoder = asked
    assert plain == server.Settings()
    assert local == server.Settings(local_models=True, login=("anna", "secret"))
    assert decoder == server.Settings(model="runs/pfenet", clip="builtin")
    assert behind == server.Settings(allow_hosts=("a.example", "localhost:9000"))


@pytest.mark.parametrize(
    "options",
    [("--local-models", "--host", "0.0.0.0"), ("--local-models", "--allow-host", "a.example")],
)
def test_local_models_for_others_are_refused(piclip, options):
    ran = piclip("app", *options)
    assert ran.code == 2 and "--local-models is for a page that only" in ran.sentence
