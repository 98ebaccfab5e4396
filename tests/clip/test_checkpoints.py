"""Checkpoints of every form against the reference's arrays; bad ones end in one clear sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate, normalize

from piclip.clip import checkpoints, hub
from piclip.clip.checkpoints import (
    LoadedClip,
    ModelSettings,
    clip_from_state_dict,
    convert_checkpoint,
    load_clip,
    save_clip,
)
from piclip.errors import ModelError, OutputError, UsageError

VISION, TEXT, EMBED, PATCH, VOCABULARY, CONTEXT = 64, 64, 32, 16, 193, 16
CASES = ["s1_100x75", "s2_96x128_targetonly", "s3_112x112_targetonly"]


# What the tests build with: a tiny CLIP in OpenAI's layout, and a tokenizer of its vocabulary.


def tower_state(prefix, width, depth, generator):
    def random(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {}
    for block in range(depth):
        at = f"{prefix}transformer.resblocks.{block}."
        state |= {
            at + "attn.in_proj_weight": random(3 * width, width),
            at + "attn.in_proj_bias": random(3 * width),
            at + "attn.out_proj.weight": random(width, width),
            at + "attn.out_proj.bias": random(width),
            at + "mlp.c_fc.weight": random(2 * width, width),
            at + "mlp.c_fc.bias": random(2 * width),
            at + "mlp.c_proj.weight": random(width, 2 * width),
            at + "mlp.c_proj.bias": random(width),
        }
        for norm in ("ln_1", "ln_2"):
            state |= {f"{at}{norm}.weight": 1 + random(width), f"{at}{norm}.bias": random(width)}
    return state


def tiny_state(seed=0, vocabulary=VOCABULARY, patch=PATCH, vision=VISION):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {
        "visual.class_embedding": random(vision),
        "visual.conv1.weight": random(vision, 3, patch, patch),
        "visual.positional_embedding": random(1 + 9, vision),
        "visual.proj": random(vision, EMBED),
        "token_embedding.weight": random(vocabulary, TEXT),
        "positional_embedding": random(CONTEXT, TEXT),
        "text_projection": random(TEXT, EMBED),
        "logit_scale": torch.tensor(3.0),
    }
    for norm, width in (("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", TEXT)):
        state |= {f"{norm}.weight": 1 + random(width), f"{norm}.bias": random(width)}
    state |= tower_state("visual.", vision, 2, generator)
    return state | tower_state("", TEXT, 1, generator)


def tiny_tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = [("a", "b"), ("p", "h"), ("ab", "c</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == VOCABULARY
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def weights_file(tmp_path):
    save_file(tiny_state(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, tokenizer_folder):
    folder = tmp_path_factory.mktemp("converted")
    save_file(tiny_state(), folder / "tiny.safetensors")
    return convert_checkpoint(
        folder / "tiny.safetensors", folder / "clip", tokenizer=tokenizer_folder
    )


@pytest.fixture
def clip_folder(tmp_path, converted):
    """A converted folder of the test's own, to damage as it likes."""
    return Path(shutil.copytree(converted, tmp_path / "clip"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network and an empty cache, whatever the machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty-cache"))


def outputs(model):
    """Image and text features of one fixed input."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 48, 48, generator=generator)
    tokens = torch.tensor([[191, 5, 6, 192, 192], [191, 7, 8, 9, 192]])
    with torch.inference_mode():
        image = model.get_image_features(pixels).pooler_output
        return image, model.get_text_features(tokens).pooler_output


def assert_same_outputs(model, expected, atol=1e-6):
    for ours, theirs in zip(outputs(model), outputs(expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and len(text) < 400


# Conversion against the reference's arrays.


@pytest.fixture(scope="module")
def golden_model(shared):
    return clip_from_state_dict(load_file(shared / "golden" / "tiny_openai_clip.safetensors"))


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "priors_upstream_small.npz") as arrays:
        return dict(arrays)


class ResizedEmbeddings(torch.nn.Module):
    """Patch and position embeddings of any size, resized bilinearly as the reference does."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, pixel_values, **_kwargs):
        patches = self.embeddings.patch_embedding(pixel_values)  # (1, D, h, w)
        position = self.embeddings.position_embedding.weight
        side = round((len(position) - 1) ** 0.5)
        grid = position[1:].T.reshape(1, -1, side, side)
        grid = interpolate(grid, patches.shape[-2:], mode="bilinear", align_corners=False)
        cls = self.embeddings.class_embedding + position[0]
        return torch.cat([cls[None, None], (patches + grid).flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_attention_match_the_reference(shared, golden, case):
    model = clip_from_state_dict(load_file(shared / "golden" / "tiny_openai_clip.safetensors"))
    model.set_attn_implementation("eager")
    model.vision_model.embeddings = ResizedEmbeddings(model.vision_model.embeddings)
    with torch.inference_mode():
        image = torch.from_numpy(golden[f"{case}/preprocessed"])[None]
        output = model.vision_model(image, output_hidden_states=True, output_attentions=True)
    attention = torch.cat([weights.mean(dim=1) for weights in output.attentions])
    previous, last = (hidden[0] for hidden in output.hidden_states[-2:])
    assert len(output.hidden_states) == 11
    np.testing.assert_allclose(previous, golden[f"{case}/hidden_prev"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(last, golden[f"{case}/hidden_last"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(attention, golden[f"{case}/attn"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["fg", "bg"])
@pytest.mark.parametrize("padding", [0, 49407])
def test_text_features_match_the_reference_with_either_padding(golden_model, golden, kind, padding):
    tokens = torch.from_numpy(golden[f"{kind}_tokens"]).long()  # OpenAI pads with 0
    attended = torch.arange(77) <= tokens.argmax(dim=1, keepdim=True)
    tokens = tokens.masked_fill(~attended, padding)
    with torch.inference_mode():
        features = golden_model.get_text_features(tokens, attention_mask=attended.long())
    features = normalize(features.pooler_output, dim=-1)
    np.testing.assert_allclose(features, golden[f"{kind}_text_features"], atol=1e-4, rtol=0)


def test_architecture_is_read_from_the_shapes(golden_model):
    vision, text = golden_model.config.vision_config, golden_model.config.text_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.num_hidden_layers) == (
        128,
        2,
        10,
    )
    assert (vision.patch_size, vision.image_size, golden_model.config.projection_dim) == (
        16,
        64,
        64,
    )
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (64, 1, 3)
    assert (text.vocab_size, text.max_position_embeddings) == (49408, 77)
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (49406, 49407, 49407)
    assert golden_model.logit_scale.item() == pytest.approx(np.log(100), abs=1e-6)
    assert golden_model.dtype == torch.float32 and not golden_model.training


def test_large_open_clip_towers_have_their_own_head_width():
    state = tiny_state(vision=1280)
    assert clip_from_state_dict(state).config.vision_config.num_attention_heads == 16  # ViT-H


# The same weights in other clothes.


def custom_text(state):
    return {k if k.startswith("visual.") or k == "logit_scale" else f"text.{k}": v
            for k, v in state.items()}  # fmt: skip


@pytest.mark.parametrize(
    "dress",
    [
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        custom_text,
        lambda state: {f"module.{k}": v for k, v in custom_text(state).items()},
        lambda state: state | {"attn_mask": torch.zeros(CONTEXT, CONTEXT)},
        lambda state: state | {k: torch.tensor(1) for k in ("input_resolution", "vocab_size")},
    ],
    ids=["module prefix", "custom text", "both", "causal mask", "scalars"],
)
def test_names_of_open_clip_give_the_same_model(dress):
    assert_same_outputs(
        clip_from_state_dict(dress(tiny_state())), clip_from_state_dict(tiny_state())
    )


def test_half_precision_weights_become_float32():
    half = {name: tensor.half() for name, tensor in tiny_state().items()}
    model = clip_from_state_dict(half)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = {name: tensor.float() for name, tensor in half.items()}
    assert_same_outputs(model, clip_from_state_dict(exact))


def test_the_activation_is_the_callers_choice():
    quick, exact = (
        clip_from_state_dict(tiny_state(), hidden_act=a) for a in ("quick_gelu", "gelu")
    )
    assert exact.config.vision_config.hidden_act == exact.config.text_config.hidden_act == "gelu"
    assert (outputs(quick)[0] - outputs(exact)[0]).abs().max() > 1e-4
    with pytest.raises(UsageError, match="quick_gelu"):
        clip_from_state_dict(tiny_state(), hidden_act="relu")


def test_conversion_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    clip_from_state_dict(tiny_state())
    assert torch.rand(1) == expected


class OpenAIArchive(torch.nn.Module):
    """A module whose state dict has OpenAI's names, to be scripted as OpenAI's files are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def nested_module(state):
    root = OpenAIArchive()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, OpenAIArchive())
            module = getattr(module, part)
        module.register_buffer(leaf, tensor)
    return root


def write_torchscript(state, path):
    scalars = {"input_resolution": torch.tensor(48), "context_length": torch.tensor(CONTEXT)}
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.jit.save(torch.jit.script(nested_module(half | scalars)), path)


@pytest.mark.parametrize(
    ("file", "write", "atol"),
    [
        ("clip.pt", torch.save, 1e-6),
        ("clip.pth", torch.save, 1e-6),
        ("clip.bin", lambda s, p: torch.save({"state_dict": s, "epoch": 3}, p), 1e-6),
        ("old.pt", lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False), 1e-6),
        ("clip.safetensors", save_file, 1e-6),
        ("ViT-B-16.pt", write_torchscript, 5e-3),  # float16, as OpenAI's
    ],
    ids=["pt", "pth", "checkpoint", "old format", "safetensors", "torchscript"],
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_every_kind_of_file_loads(tmp_path, tokenizer_folder, file, write, atol):
    write(tiny_state(), tmp_path / file)
    loaded = load_clip(tmp_path / file, tokenizer=tokenizer_folder)
    assert_same_outputs(loaded.model, clip_from_state_dict(tiny_state()), atol)
    assert loaded.tokenizer("abc").input_ids == [191, 190, 192]
    assert loaded.settings == ModelSettings(image_size=480)


# Folders.


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


@pytest.mark.parametrize(("patch", "size"), [(16, 480), (32, 480), (14, 476)])
def test_photographs_are_encoded_at_480_rounded_to_the_patch(
    tmp_path, tokenizer_folder, patch, size
):
    save_file(tiny_state(patch=patch), tmp_path / "x.safetensors")
    loaded = load_clip(tmp_path / "x.safetensors", tokenizer=tokenizer_folder)
    assert loaded.settings.image_size == size


def test_settings_survive_saving(clip_folder, tmp_path):
    loaded = load_clip(clip_folder)
    settings = ModelSettings(128, 2, (0.5, 0.25, 0.125), (1.0, 0.5, 0.25))
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
        {"unknown": 1},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(clip_folder, settings):
    (clip_folder / "piclip.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"piclip\.json.* not valid") as error:
        load_clip(clip_folder)
    assert one_sentence(error)


# Saving.


def test_a_folder_with_something_in_it_is_not_overwritten(clip_folder, weights_file):
    before = names_in(clip_folder)
    with pytest.raises(UsageError, match="not empty"):
        convert_checkpoint(weights_file, clip_folder)
    assert names_in(clip_folder) == before


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


class Malicious:
    """Makes a file when it is unpickled with code allowed."""

    def __init__(self, folder):
        self.target = str(folder / "owned")

    def __reduce__(self):
        return open, (self.target, "w")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_truncated(write):
    def damaged(state, path):
        write(state, path)
        truncate(path)

    return damaged


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("x.safetensors", write_truncated(save_file)),
        ("x.pt", write_truncated(torch.save)),
        ("jit.pt", write_truncated(write_torchscript)),
        ("empty.pt", lambda _s, p: p.write_bytes(b"")),
        ("empty.safetensors", lambda _s, p: p.write_bytes(b"")),
        ("text.bin", lambda _s, p: p.write_bytes(b"hello world" * 30)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_damaged_file_is_said_to_be_so(tmp_path, file, write):
    write(tiny_state(), tmp_path / file)
    with pytest.raises(ModelError, match=r"damaged|cannot be read as weights") as error:
        load_clip(tmp_path / file)
    assert one_sentence(error) and file in str(error.value)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    torch.save(tiny_state() | {"code": Malicious(tmp_path)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="could run code") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error) and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="holds no state dict") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"bert.embeddings.word_embeddings.weight": s["visual.proj"]}, "no CLIP model"),
        (lambda s: {}, "no CLIP model"),
        (lambda s: s | {"visual.layer1.0.conv1.weight": s["visual.proj"]}, "ResNet"),
        (lambda s: s | {"visual.trunk.blocks.0.norm1.weight": s["visual.proj"]}, "timm"),
        (lambda s: s | {"visual.blocks.0.norm1.weight": s["visual.proj"]}, "EVA"),
        (lambda s: s | {"text_decoder.ln_final.weight": s["visual.proj"]}, "CoCa"),
        (lambda s: s | {"text.transformer.encoder.x": s["visual.proj"]}, "Hugging Face text"),
        (lambda s: s | {"visual.ln_extra.weight": s["visual.proj"]}, "does not have"),
        (lambda s: {k: v for k, v in s.items() if k != "visual.ln_pre.bias"}, "ln_pre.bias"),
        (lambda s: s | {"visual.positional_embedding": torch.ones(9, VISION)}, "square grid"),
        (lambda s: s | {"visual.ln_post.weight": torch.ones(7)}, "do not fit together"),
        (lambda s: s | {"visual.conv1.weight": torch.ones(70, 3, 16, 16)}, "do not fit together"),
        (lambda s: s | {"visual.proj": torch.ones(3)}, "do not fit together"),
        (lambda s: {"text_model.final_layer_norm.bias": s["visual.proj"]}, "config.json"),
    ],
)
def test_weights_of_another_kind_are_named(change, words):
    with pytest.raises(ModelError, match=words) as error:
        clip_from_state_dict(change(tiny_state()))
    assert one_sentence(error)


def test_a_weights_file_with_its_own_vocabulary_wants_its_tokenizer(weights_file):
    with pytest.raises(ModelError, match="--tokenizer") as error:
        load_clip(weights_file)
    assert one_sentence(error)


@pytest.mark.usefixtures("offline")
def test_openai_weights_offline_say_how_to_get_the_tokenizer(tmp_path):
    save_file(tiny_state(vocabulary=49408), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="hf download openai/clip-vit-base-patch16") as error:
        load_clip(tmp_path / "x.safetensors")
    assert one_sentence(error)


def test_the_tokenizer_of_another_model_is_refused(tmp_path, tokenizer_folder):
    save_file(tiny_state(vocabulary=300), tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="does not belong") as error:
        load_clip(tmp_path / "x.safetensors", tokenizer=tokenizer_folder)
    assert one_sentence(error)


def drop(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop("config.json"), "no config.json"),
        (write("config.json", '{"model_type": "bert"}'), "not a CLIP"),
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


@pytest.mark.parametrize(
    "name", ["./none", "/none/here", "~/none-such", "none.pt", "none.safetensors"]
)
def test_a_missing_path_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(checkpoints, "hub_folder", lambda _name: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no file or folder") as error:
        load_clip(name)
    assert one_sentence(error)


# The hub.


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


class Hub:
    """A hub with one answer instead of the network; counts the questions."""

    def __init__(self, monkeypatch, tmp_path, answer):
        import huggingface_hub
        from huggingface_hub import constants

        self.questions, self.downloads = 0, []
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.model_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        self.answer = answer

    def model_info(self, name, timeout):
        self.questions += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        files = [type("File", (), {"rfilename": file}) for file in names_in(self.answer)]
        return type("Info", (), {"siblings": files})

    def snapshot_download(self, name, allow_patterns):
        self.downloads.append(allow_patterns)
        return str(self.answer)


def hub_error(kind, status):
    from huggingface_hub import errors

    response = errors.Response(status, request=None)
    response._request = object()  # the errors look at it and need none
    return getattr(errors, kind)(f"{status} Client Error\n\nlong explanation", response=response)


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("RepositoryNotFoundError", 404, "knows no model 'some/clip'"),
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


def test_a_repository_without_transformers_weights_says_so(monkeypatch, tmp_path):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "open_clip_model.safetensors").write_bytes(b"x")
    Hub(monkeypatch, tmp_path, tmp_path / "repository")
    with pytest.raises(ModelError, match="give that file's path") as error:
        load_clip("some/clip")
    assert one_sentence(error)


def test_a_cached_model_loads_without_a_question(monkeypatch, tmp_path, clip_folder):
    asked = Hub(monkeypatch, tmp_path, OSError("no network"))
    snapshot = tmp_path / "cache" / "models--some--clip" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    clip_folder.rename(snapshot)
    refs = tmp_path / "cache" / "models--some--clip" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    load_clip("some/clip")
    assert asked.questions == 0
    (snapshot / "model.safetensors").unlink()  # an interrupted download is taken up again
    with pytest.raises(ModelError, match="no network"):
        load_clip("some/clip")
    assert asked.questions == 1
    assert hub.hub_folder("some/clip", weights=False) == snapshot
