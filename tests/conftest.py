"""What the tests share: where the reference data lies, and a tiny untrained CLIP."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does, and no test is about that.
# The same examples each time, so that a change is judged by what it changes; make test-slow looks
# at new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("fixed")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder ../shared with the reference data is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Random tensors and weights do not depend on which tests a process ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The folder of a tiny CLIP with random weights; many other tests need none of its imports."""
    from piclip.clip.checkpoints import LoadedClip, save_clip
    from piclip.clip.settings import ModelSettings
    from world.world_model import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("models") / "untrained"
    tokenizer = build_tokenizer()
    save_clip(LoadedClip(build_model(tokenizer, 0), tokenizer, ModelSettings(64)), folder)
    return folder


@pytest.fixture
def one_thread():
    """Torch adds up in the order in which an actor does, which has one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def memory():
    """The storage of ``memory://`` URLs, empty before and after."""
    import fsspec

    def empty():
        storage.store.clear()
        storage.pseudo_dirs[:] = [""]

    storage = fsspec.filesystem("memory")
    empty()
    yield storage
    empty()


@pytest.fixture
def predicted(monkeypatch) -> list[int]:
    """How many images were scored together."""
    from piclip.training_free.scorer import TrainingFreeScorer

    counts = []
    score = TrainingFreeScorer.score

    def counting(self, images, **options):
        counts.append(len(images))
        return score(self, images, **options)

    monkeypatch.setattr(TrainingFreeScorer, "score", counting)
    return counts
