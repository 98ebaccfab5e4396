"""A trained decoder as the page's model: the same work, and no priors to look at."""

import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from decoder_folders import trained
from piclip import FewShotSegmenter, Support
from piclip.app.example_scenes import load_example
from piclip.app.files import masks_zip
from piclip.app.models import Models
from piclip.app.server import Settings, serve
from piclip.app.session import Limits, Sessions
from piclip.errors import UsageError

gradio = pytest.importorskip("gradio", reason="needs the extra [app]")
gradio_client = pytest.importorskip("gradio_client", reason="needs the extra [app]")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return str(trained(tmp_path_factory.mktemp("training") / "run"))


@pytest.fixture
def page(run_folder, tmp_path):
    """The page's handlers with an example of two classes, and a request of its tab."""
    from piclip.app.handlers import Handlers

    handlers = Handlers(Sessions(tmp_path / "sessions", Limits()), Models(run_folder))
    request = SimpleNamespace(username=None, session_hash="one")
    load_example(handlers.session(request), "Flowers and horses")
    return SimpleNamespace(handlers=handlers, request=request, session=handlers.session(request))


def test_its_masks_are_those_of_the_segmenter(page, run_folder):
    session = page.session
    list(session.run(page.handlers.models.load("")))
    assert session.failures == [] and len(session.answers) == 6 and session.threshold == 0.5
    segmenter = FewShotSegmenter.from_pretrained(run_folder)
    segmenter.fit({e.class_name: [Support(e.image, e.mask)] for e in session.examples})
    expected = segmenter.predict([query.path for query in session.queries])
    for answer, whole in zip(session.answers, expected, strict=True):
        np.testing.assert_allclose(np.load(answer.scores_file), whole.scores, rtol=0, atol=5e-4)
        assert answer.preview.priors is None
    with zipfile.ZipFile(masks_zip(session, 0.5)) as archive:
        assert len(archive.namelist()) == 7


def test_the_priors_are_left_out_and_one_sentence_says_why(page):
    from piclip.app.handlers import PRIORS

    def shown(model):
        list(page.handlers.run(model, page.request))
        parts = page.handlers.show(page.request)
        return parts[6], parts[9 : 9 + len(PRIORS)], parts[9 + len(PRIORS) :]

    classes, texts, pictures = shown("")
    assert texts == ("A trained decoder keeps no priors to look at.",) * len(PRIORS)
    assert pictures == (None,) * len(PRIORS)
    assert not vars_of(classes)["visible"]
    picked = SimpleNamespace(index=1)
    index, image, _, *maps = page.handlers.choose("horse", picked, page.request)
    assert index == 1 and image.size == (720, 720) and set(maps) == {None}
    assert set(page.handlers.choose_class(1, "horse", page.request)) == {None}

    classes, texts, pictures = shown("builtin")
    assert texts == tuple(text for _, _, text in PRIORS)
    assert None not in pictures and vars_of(classes)["visible"]


def vars_of(update):
    """The properties that an update of a component sets."""
    return update if isinstance(update, dict) else update.constructor_args


def test_programs_get_its_results(run_folder):
    with serve(Settings(model=run_folder)) as served:
        client = gradio_client.Client(served.url, verbose=False, analytics_enabled=False)
        client.predict("Cats", api_name="/example")
        outcome = client.predict("", api_name="/run")
        assert outcome["threshold"] == 0.5 and outcome["failures"] == []
        assert len(outcome["images"]) == 6
        overlay = client.predict(0, None, api_name="/overlay")
        assert Image.open(overlay).size == (720, 720)


def test_a_clip_that_is_not_taken_is_told_before_anything_is_served():
    with (
        pytest.raises(UsageError, match="leave clip out"),
        serve(Settings(model="builtin", clip="builtin")),
    ):
        pass
