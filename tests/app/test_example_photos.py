"""The photographs of gradio as an example of the page, and its link to the documentation."""

from email.message import Message
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import numpy as np
import pytest

from piclip.app import example_photos
from piclip.app.example_photos import QUERIES, missing_photo
from piclip.app.example_scenes import PHOTOGRAPHS, load_example
from piclip.app.models import BUILTIN, Models
from piclip.app.session import AppSession, Limits, Sessions
from piclip.clip.encoder import DEFAULT_MODEL
from piclip.errors import UsageError
from piclip.io.images import read_image

pytest.importorskip("gradio", reason="needs the extra [app]")


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(example_photos, "find_spec", lambda name: None)


def rows(tmp_path, model):
    """Whether each row of example buttons is visible, by the titles of its buttons."""
    from piclip.app.page import build_page

    config = build_page(Sessions(tmp_path / "sessions", Limits()), Models(model)).config
    props = {part["id"]: part["props"] for part in config["components"]}

    def walk(node):
        inside = node.get("children") or []
        if "examples" in (props.get(node["id"], {}).get("elem_classes") or []):
            titles = [props[child["id"]].get("value") for child in inside[1:]]
            yield tuple(titles), props[node["id"]].get("visible", True)
        for child in inside:
            yield from walk(child)

    return dict(walk(config["layout"]))


def test_the_example_is_the_photographs_as_they_are_installed(tmp_path):
    session = AppSession(tmp_path / "session", Limits())
    paper = load_example(session, PHOTOGRAPHS)
    (example,) = session.examples
    assert example.class_name == "cheetah" and 0.5 < example.mask.mean() < 0.7
    assert [query.file_name for query in session.queries] == list(QUERIES)
    shipped = example_photos.shipped_photos()
    for query in session.queries:
        np.testing.assert_array_equal(
            np.asarray(read_image(query.path)), np.asarray(read_image(shipped[query.file_name]))
        )
    assert max(paper.size) == 512


def test_photographs_keep_the_chosen_model_and_scenes_bring_the_built_in_one(tmp_path):
    from piclip.app.handlers import Handlers

    handlers = Handlers(Sessions(tmp_path / "sessions", Limits()), Models())
    request = SimpleNamespace(username=None, session_hash="one")
    for title, expected in ((PHOTOGRAPHS, DEFAULT_MODEL), ("Cats", BUILTIN)):
        name, editor, *_, model, hint = handlers.example(title, DEFAULT_MODEL, request)
        assert (name, model) == (handlers.session(request).class_names[0], expected)
        assert max(editor["background"].size) == 512
        assert ("for trying only" in hint) == (expected == BUILTIN)


def test_they_are_offered_for_models_that_know_photographs(tmp_path):
    from piclip.app.handlers import Handlers

    photographs = (PHOTOGRAPHS,)
    assert rows(tmp_path, DEFAULT_MODEL)[photographs] is True
    assert rows(tmp_path, BUILTIN)[photographs] is False
    assert all(shown for titles, shown in rows(tmp_path, BUILTIN).items() if titles != photographs)
    handlers = Handlers(Sessions(tmp_path / "tabs", Limits()), Models())
    for model, offered in ((DEFAULT_MODEL, True), (f" {BUILTIN} ", False)):
        about, row = handlers.choose_model(model)
        assert ("for trying only" in about, row.visible) == (not offered, offered)


def test_they_are_not_offered_where_they_are_not_installed(tmp_path, nothing_installed):
    assert missing_photo() == "cheetah1.jpg"
    assert rows(tmp_path, DEFAULT_MODEL)[(PHOTOGRAPHS,)] is False
    session = AppSession(tmp_path / "session", Limits())
    session.add_example(np.zeros((9, 9, 3), np.uint8), np.eye(9, dtype=np.uint8), "kept")
    with pytest.raises(UsageError, match=r"cheetah1\.jpg.*'piclip\[app\]'"):
        load_example(session, PHOTOGRAPHS)
    assert session.class_names == ("kept",)


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["Documentation, https://docs.example.org/?a=1&b"], 'href="https://docs.example.org/?a=1'),
        (["Source, https://example.org/code"], "<code>docs/</code> in the repository"),
        ([], "<code>docs/</code> in the repository"),
        (None, "<code>docs/</code> in the repository"),
    ],
)
def test_the_page_says_where_the_documentation_is(monkeypatch, urls, expected):
    from piclip.app import page

    def named(name):
        if urls is None:
            raise PackageNotFoundError(name)
        message = Message()
        for url in urls:
            message["Project-URL"] = url
        return message

    monkeypatch.setattr(page, "metadata", named)
    assert expected in page.documentation()
