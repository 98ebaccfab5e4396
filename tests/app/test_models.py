"""Which models the page takes from those who come to it."""

import json
import shutil
import tempfile
import urllib.request
from pathlib import Path

import pytest

from decoder_folders import trained
from piclip.app import models as models_of_the_page
from piclip.app.models import Models
from piclip.app.server import Settings, serve
from piclip.clip.checkpoints import BUILTIN_FOLDER
from piclip.errors import ModelError, UsageError


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files; what else is in tmp_path counts as elsewhere."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refusal(models, name):
    """The sentence with which a model is refused, without its name."""
    with pytest.raises(ModelError) as refused:
        models.load(str(name))
    assert str(name) in str(refused.value)
    return str(refused.value).replace(str(name), "...")


def clip_in(folder):
    shutil.copytree(BUILTIN_FOLDER, folder)
    return folder


def test_without_the_option_no_answer_depends_on_the_files_of_this_computer(
    tmp_path, temporary, monkeypatch
):
    present, decoder = clip_in(tmp_path / "present"), trained(tmp_path / "run")
    (tmp_path / "file.pt").write_bytes(b"no weights")
    monkeypatch.chdir(tmp_path)
    models = Models()
    sentences = {
        refusal(models, name)
        for name in (
            present, f"{present}/", tmp_path / "missing", "present", "missing", "./present",
            "../missing", "file.pt", "/etc", "~root", "~nobody-of-this-name", "a/b/c", "C:\\x",
            "here/\0", decoder,
        )
    }  # fmt: skip
    assert len(sentences) == 1 and "--local-models" in sentences.pop()


def test_what_is_written_as_on_the_hub_is_not_looked_for_here(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    clip_in(tmp_path / "owner" / "present")
    for models in (Models(), Models(local_models=True)):
        present, missing = (refusal(models, f"owner/{name}") for name in ("present", "missing"))
        assert present == missing and "local cache" in present


def test_with_the_option_folders_of_this_computer_are_taken(tmp_path, temporary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = clip_in(tmp_path / "clip")
    models = Models(local_models=True)
    for name in (str(clip), "./clip", "clip"):
        assert models.load(name).encoder.embed_dim == Models().load("builtin").encoder.embed_dim
    assert "There is no file or folder" in refusal(models, tmp_path / "missing")
    assert "is no path" in refusal(models, "~nobody-of-this-name/clip")


def test_with_the_option_trained_decoders_of_this_computer_are_taken(tmp_path, temporary):
    models = Models(local_models=True)
    run = trained(tmp_path / "run")
    assert models.load(str(run)).threshold == 0.5
    with pytest.raises(UsageError, match="decoder"):
        _ = models.load(str(run)).encoder  # it has one of its own
    unnamed = trained(tmp_path / "unnamed", clip=None)
    with pytest.raises(UsageError, match="CLIP whose priors"):
        models.load(str(unnamed))
    assert "temporary files" in refusal(models, trained(temporary / "run"))


def test_the_clip_of_the_command_line_is_that_of_its_decoder_only(tmp_path):
    run = str(trained(tmp_path / "run", clip=None))
    models = Models(run, clip="builtin", local_models=True)
    assert models.load("") is models.load(run)
    assert models.load("builtin").encoder.embed_dim > 0
    with pytest.raises(UsageError, match="leave clip out"):
        Models("builtin", clip="builtin").load("")


def test_the_hub_gives_no_decoders(tmp_path, monkeypatch):
    downloaded = trained(tmp_path / "run", clip=None) / "decoder"
    monkeypatch.setattr(models_of_the_page, "hub_folder", lambda name: downloaded)
    for models in (Models(), Models(local_models=True)):
        with pytest.raises(ModelError):
            models.load("owner/decoder")


def test_models_in_temporary_folders_are_refused(tmp_path, temporary, monkeypatch):
    monkeypatch.chdir(temporary)
    present = clip_in(temporary / "clip")
    (tmp_path / "link").symlink_to(present)
    models = Models(local_models=True)
    sentences = {
        refusal(models, name)
        for name in (
            present, temporary / "missing", temporary, "./clip", "./missing", tmp_path / "link",
            f"{tmp_path}/elsewhere/../temporary/clip",
        )
    }  # fmt: skip
    assert len(sentences) == 1 and "temporary files" in sentences.pop()


def test_the_model_of_the_command_line_is_always_taken(temporary):
    clip = str(clip_in(temporary / "clip"))
    for options in ({}, {"any_model": False}, {"local_models": True}):
        models = Models(clip, **options)
        assert models.load("") is models.load(clip)


def test_an_upload_is_no_model():
    pytest.importorskip("gradio", reason="needs the extra [app]")
    with serve(Settings(local_models=True)) as served:
        body = (
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="evil.pt"\r\n\r\n'
            b"no weights\r\n--b--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        sent = urllib.request.Request(f"{served.url}gradio_api/upload", body, headers)
        with urllib.request.urlopen(sent, timeout=20) as answer:
            (uploaded,) = json.load(answer)
        assert Path(uploaded).read_bytes() == b"no weights"
        assert "temporary files" in refusal(Models(local_models=True), uploaded)


def test_local_models_are_not_offered_to_others():
    for settings in (
        Settings(local_models=True, host="0.0.0.0"),
        Settings(local_models=True, allow_hosts=("piclip.example.org",)),
    ):
        with pytest.raises(UsageError, match="--local-models"), serve(settings):
            pass
    others = Models(any_model=False, local_models=True)
    assert not others.local_models
    with pytest.raises(ModelError, match="offers only"):
        others.load(str(BUILTIN_FOLDER))
