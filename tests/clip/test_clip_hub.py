"""Models of the hub, without a network: names, questions, refusals and the cache."""

import pytest
from fake_hub import Hub, cached
from tiny_clip import assert_same_outputs, tiny_state

from piclip.clip import checkpoints, hub
from piclip.clip.checkpoints import load_clip
from piclip.clip.conversion import clip_from_state_dict
from piclip.clip.encoder import Encoder
from piclip.errors import ModelError
from sentences import one_sentence


@pytest.mark.parametrize(
    "name", ["./none", "/none/here", "~/none-such", "none.pt", "none.safetensors"]
)
def test_a_missing_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(checkpoints, "hub_folder", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no file or folder") as error:
        load_clip(name)
    assert one_sentence(error)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "nosuchmodel"])
def test_without_a_network_the_way_out_is_said(name):
    with pytest.raises(ModelError, match=r'"builtin", which works offline.*hf download') as error:
        load_clip(name)
    assert one_sentence(error) and "HF_HUB_OFFLINE is set" in str(error.value)


@pytest.mark.parametrize("name", ["two words", "a/b/c", "x" * 200])
def test_an_impossible_name_is_refused(name):
    with pytest.raises(ModelError, match="no model") as error:
        load_clip(name)
    assert one_sentence(error)


def hub_error(kind, status):
    from huggingface_hub import errors

    response = errors.Response(status, request=None)
    response._request = object()  # the errors look at it and need none
    return getattr(errors, kind)(f"{status} Client Error\n\nlong explanation", response=response)


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("RepositoryNotFoundError", 404, "knows no model 'some/clip'"),
        ("RevisionNotFoundError", 404, "no revision None of some/clip"),
        ("RepositoryNotFoundError", 401, "knows no model 'some/clip'"),
        ("GatedRepoError", 403, "accept its terms"),
        ("HfHubHTTPError", 503, "HTTP 503"),
    ],
)
def test_what_the_hub_refuses_is_explained(monkeypatch, tmp_path, kind, status, words):
    asked = Hub(monkeypatch, tmp_path, hub_error(kind, status))
    with pytest.raises(ModelError, match=words) as error:
        load_clip("some/clip")
    assert one_sentence(error) and asked.questions == 1


def test_a_broken_connection_is_explained_at_once(monkeypatch, tmp_path):
    from huggingface_hub.errors import HTTPError

    asked = Hub(monkeypatch, tmp_path, HTTPError("[Errno -2] Name or service not known"))
    with pytest.raises(ModelError, match="Name or service not known") as error:
        load_clip("some/clip")
    assert one_sentence(error) and asked.questions == 1


def test_a_model_of_the_hub_loads_with_one_form_of_its_weights(monkeypatch, tmp_path, clip_folder):
    (clip_folder / "pytorch_model.bin").write_bytes(b"not wanted")
    asked = Hub(monkeypatch, tmp_path, clip_folder)
    assert_same_outputs(load_clip("some/clip").model, clip_from_state_dict(tiny_state()), atol=0)
    (patterns,) = asked.downloads
    assert "model.safetensors" in patterns and "pytorch_model.bin" not in patterns


def test_revision_and_cache_are_those_that_were_asked_for(monkeypatch, tmp_path, clip_folder):
    asked = Hub(monkeypatch, tmp_path, clip_folder)
    encoder = Encoder.from_pretrained("some/clip", revision="v1", cache_dir=tmp_path / "mine")
    assert (asked.revision, asked.cache_dir) == ("v1", tmp_path / "mine")
    assert encoder.source == "some/clip"


def test_local_files_only_asks_nobody(monkeypatch, tmp_path, clip_folder):
    asked = Hub(monkeypatch, tmp_path, clip_folder)
    with pytest.raises(ModelError, match="only local files are to be used") as error:
        load_clip("some/clip", local_files_only=True)
    assert one_sentence(error)
    cached(tmp_path / "mine", clip_folder, ref="v1")
    where = {"cache_dir": tmp_path / "mine", "local_files_only": True}
    loaded = load_clip("some/clip", revision="v1", **where)
    assert_same_outputs(loaded.model, clip_from_state_dict(tiny_state()), atol=0)
    for revision in (None, "v2"):
        with pytest.raises(ModelError, match="only local files"):
            load_clip("some/clip", revision=revision, **where)
    assert asked.questions == 0


def test_a_repository_without_transformers_weights_says_so(monkeypatch, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "open_clip_model.safetensors").write_bytes(b"x")
    Hub(monkeypatch, tmp_path, tmp_path / "repository")
    with pytest.raises(ModelError, match="give that file's path") as error:
        load_clip("some/clip")
    assert one_sentence(error)


def test_a_cached_model_loads_without_a_question(monkeypatch, tmp_path, clip_folder):
    asked = Hub(monkeypatch, tmp_path, OSError("no network"))
    snapshot = cached(tmp_path / "cache", clip_folder)
    load_clip("some/clip")
    assert asked.questions == 0
    (snapshot / "model.safetensors").unlink()  # an interrupted download is taken up again
    with pytest.raises(ModelError, match="no network"):
        load_clip("some/clip")
    assert asked.questions == 1
    assert hub.hub_folder("some/clip", weights=False) == snapshot
