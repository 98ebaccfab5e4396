"""The built-in model, drawn scenes in a small Label Studio, and a backend that serves it."""

from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest
from fake_label_studio import TOKEN, FakeLabelStudio, brush_result, png

pytest.importorskip("starlette")
pytest.importorskip("label_studio_sdk")

from piclip.clip.cache import MemoryCache
from piclip.clip.encoder import Encoder
from piclip.datasets.scenes import make_scene
from piclip.label_studio.projects import Backend, Tools
from piclip.label_studio.protocol import build_app
from piclip.label_studio.server import listen, running
from piclip.label_studio.task_images import TaskImages
from piclip.label_studio.tasks import LabelStudioApi
from piclip.segmenter import FewShotSegmenter
from piclip.training_free.scorer import TrainingFreeScorer


@pytest.fixture(scope="session")
def segmenter():
    """With nothing learned."""
    encoder = Encoder.from_pretrained("builtin", device="cpu", dtype="float32")
    return FewShotSegmenter(TrainingFreeScorer(encoder, cache=MemoryCache()))


@pytest.fixture(scope="session")
def scenes():
    """By task number: two cats that are labelled, a cat and a star that are not."""
    wanted = {1: "cat", 2: "cat", 3: "cat", 4: "star"}
    return {number: make_scene(2422, number, include=name) for number, name in wanted.items()}


@pytest.fixture
def label_studio(scenes):
    """A project with the scenes, the first two labelled."""
    with project_of(scenes).running() as fake:
        yield fake


def project_of(scenes, below=""):
    fake = FakeLabelStudio(below)
    for number, scene in scenes.items():
        path = f"/data/upload/1/0a1b2c3d-scene{number}.png"
        fake.files[path] = png(scene.image)
        labels = [brush_result("cat", scene.mask("cat"))] if number < 3 else []
        fake.add_task(number, below + path, *labels)
    return fake


@pytest.fixture
def label_studio_below(scenes):
    """The same below a path, which it writes before the addresses of its files."""
    with project_of(scenes, "/labels").running() as fake:
        yield fake


@pytest.fixture
def serving(segmenter, tmp_path):
    """A function that serves a backend for a Label Studio."""

    @contextmanager
    def serving(
        fake,
        *,
        token=TOKEN,
        login=None,
        setup_seconds=10.0,
        recheck_seconds=60.0,
        segmenter=segmenter,
        **more,
    ):
        api = LabelStudioApi(fake.url, token)
        tools = Tools(
            segmenter=segmenter,
            source=api.labelled_tasks,
            images=TaskImages(fake.url, headers=api.headers, **more),
            folder=tmp_path,
            threshold=segmenter.threshold,
        )
        with (
            closing(tools.images),
            closing(Backend(tools, recheck_seconds=recheck_seconds)) as backend,
            listen("127.0.0.1", 0) as listening,
            running(build_app(backend, login, setup_seconds=setup_seconds), listening) as served,
        ):
            yield SimpleNamespace(url=served.url, backend=backend, tools=tools)

    return serving


@pytest.fixture
def backend(label_studio, serving):
    """The address of a backend for the project."""
    with serving(label_studio) as served:
        yield served.url
