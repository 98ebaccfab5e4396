"""CLIP in a folder: converted, saved, loaded with its settings; incomplete ones are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import (
    CONTEXT,
    Malicious,
    assert_same_outputs,
    names_in,
    tiny_state,
    tiny_tokenizer,
    truncate,
)

from piclip.clip import checkpoints
from piclip.clip.checkpoints import LoadedClip, convert_checkpoint, load_clip, save_clip
from piclip.clip.conversion import clip_from_state_dict
from piclip.clip.settings import ModelSettings
from piclip.errors import ModelError, OutputError, UsageError
from sentences import one_sentence


def test_convert_and_load_give_the_same_outputs(clip_folder):
    loaded = load_clip(str(clip_folder))
    assert_same_outputs(loaded.model, clip_from_state_dict(tiny_state()), atol=0)
    texts = ["a photo of abc", "phi!"]
    assert loaded.tokenizer(texts).input_ids == tiny_tokenizer()(texts).input_ids
    assert not loaded.model.training


def test_plain_transformers_loads_a_converted_folder(clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    assert_same_outputs(CLIPModel.from_pretrained(clip_folder), clip_from_state_dict(tiny_state()))
    ids = AutoTokenizer.from_pretrained(clip_folder)("a photo of abc").input_ids
    assert ids == tiny_tokenizer()("a photo of abc").input_ids


def test_a_long_prompt_is_cut_to_the_context_and_keeps_its_end(clip_folder):
    loaded = load_clip(clip_folder)
    ids = loaded.tokenizer(["a b c d " * 20], truncation=True).input_ids[0]
    assert len(ids) == CONTEXT and ids[-1] == loaded.model.config.text_config.eos_token_id


def test_loading_says_nothing_and_restores_transformers_voice(clip_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_clip(clip_folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_a_pickled_folder_loads_and_an_unsafe_one_does_not(clip_folder):
    weights = load_file(clip_folder / "model.safetensors")
    (clip_folder / "model.safetensors").unlink()
    torch.save(weights, clip_folder / "pytorch_model.bin")
    assert_same_outputs(load_clip(clip_folder).model, clip_from_state_dict(tiny_state()), atol=0)
    torch.save(weights | {"code": Malicious(clip_folder)}, clip_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read") as error:
        load_clip(clip_folder)
    assert one_sentence(error) and not (clip_folder / "owned").exists()


def test_folders_of_the_older_tokenizer_form_load(clip_folder):
    content = json.loads((clip_folder / "tokenizer.json").read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    (clip_folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    (clip_folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (clip_folder / "tokenizer.json").unlink()
    (clip_folder / "tokenizer_config.json").unlink()
    ids = load_clip(clip_folder).tokenizer("a photo of abc").input_ids
    assert ids == tiny_tokenizer()("a photo of abc").input_ids


def test_builtin_is_the_folder_in_the_package(clip_folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUILTIN_FOLDER", clip_folder)
    assert_same_outputs(load_clip("builtin").model, clip_from_state_dict(tiny_state()), atol=0)


def test_a_missing_builtin_model_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUILTIN_FOLDER", tmp_path / "none")
    with pytest.raises(ModelError, match="built-in model is missing") as error:
        load_clip("builtin")
    assert one_sentence(error)


# Settings.


def test_settings_survive_saving(clip_folder, tmp_path):
    loaded = load_clip(clip_folder)
    settings = ModelSettings(
        128,
        2,
        (0.5, 0.25, 0.125),
        (1.0, 0.5, 0.25),
        (1, 2),
        2.0,
        0.5,
        presence=-0.25,
        threshold=0.75,
    )
    save_clip(LoadedClip(loaded.model, loaded.tokenizer, settings), tmp_path / "again")
    assert load_clip(tmp_path / "again").settings == settings


@pytest.mark.parametrize("nested", [False, True], ids=["preprocessor", "processor"])
def test_normalisation_comes_from_the_models_preprocessor(clip_folder, nested):
    (clip_folder / "piclip.json").unlink()
    image = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.3, 0.4], "size": 224}
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (clip_folder / name).write_text(json.dumps({"image_processor": image} if nested else image))
    expected = ModelSettings(480, None, (0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    assert load_clip(clip_folder).settings == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 100},
        {"image_size": "big"},
        {"attention_blocks": 3},
        {"attention_blocks": 0},
        {"mean": [1, 2]},
        {"std": [0, 1, 1]},
        {"std": "high"},
        {"threshold": "high"},
        {"threshold": 1.5},
        {"blocks": []},
        {"blocks": [3]},
        {"blocks": "last"},
        {"sharpness": 0},
        {"text_weight": -1},
        {"presence": float("nan")},
        {"unknown": 1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(clip_folder, settings):
    (clip_folder / "piclip.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"piclip\.json.* not valid") as error:
        load_clip(clip_folder)
    assert one_sentence(error)


def test_settings_of_earlier_versions_are_passed_over(clip_folder):
    expected = load_clip(clip_folder).settings
    file = clip_folder / "piclip.json"
    retired = {"fusion": [1, 2, 3], "fusion_many": [1], "calibration": [0, 1], "ridge": 0.1}
    file.write_text(json.dumps(json.loads(file.read_text()) | retired))
    assert load_clip(clip_folder).settings == expected


# Saving.


def test_a_folder_with_something_in_it_is_not_overwritten(clip_folder, weights_file):
    before = names_in(clip_folder)
    with pytest.raises(UsageError, match="not empty"):
        convert_checkpoint(weights_file, clip_folder)
    assert names_in(clip_folder) == before


def test_nothing_is_written_into_the_model_that_is_read(clip_folder):
    before = names_in(clip_folder)
    with pytest.raises(UsageError, match="would lie in"):
        convert_checkpoint(clip_folder, clip_folder / "deep" / "copy")
    assert names_in(clip_folder) == before


def test_an_activation_that_there_is_not_is_refused_for_a_folder_too(clip_folder, tmp_path):
    with pytest.raises(UsageError, match="activation 'zz' is unknown"):
        convert_checkpoint(clip_folder, tmp_path / "new", hidden_act="zz")
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_filled_and_nothing_else_is_left(clip_folder, tmp_path):
    (tmp_path / "out" / "new").mkdir(parents=True)
    save_clip(load_clip(clip_folder), tmp_path / "out" / "new")
    assert names_in(tmp_path / "out") == ["new"]
    load_clip(tmp_path / "out" / "new")


def test_a_failing_disk_leaves_no_half_folder(clip_folder, tmp_path, monkeypatch):
    loaded = load_clip(clip_folder)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loaded.tokenizer, "save_pretrained", full)
    with pytest.raises(OutputError, match="No space left") as error:
        save_clip(loaded, tmp_path / "out" / "new")
    assert one_sentence(error) and names_in(tmp_path / "out") == []


# What cannot be loaded.


def drop(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("config.json"), "no config.json"),
        (write("config.json", '{"model_type": "bert"}'), "not a CLIP"),
        (write("config.json", '{"decoder": "BAM"}'), "trained decoder"),
        (write("config.json", '{"model_'), "cannot be read as JSON"),
        (write("config.json", "[]"), "no JSON object"),
        (drop("model.safetensors"), "no complete weights"),
        (lambda folder: truncate(folder / "model.safetensors"), "cannot be read"),
        (drop("tokenizer.json"), "no tokenizer"),
        (lambda folder: truncate(folder / "tokenizer.json"), "tokenizer in .* cannot be read"),
        (write("model.safetensors.index.json", '{"weight_map": {"a": "gone"}}'), "no complete"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_incomplete_folder_is_explained(clip_folder, damage, words):
    damage(clip_folder)
    with pytest.raises(ModelError, match=words) as error:
        load_clip(clip_folder)
    assert one_sentence(error)


def test_a_folder_with_half_a_clip_is_refused(clip_folder):
    weights = load_file(clip_folder / "model.safetensors")
    vision_only = {name: tensor for name, tensor in weights.items() if "text" not in name}
    save_file(vision_only, clip_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"text_.* missing") as error:
        load_clip(clip_folder)
    assert one_sentence(error)
