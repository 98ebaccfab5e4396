"""CLIP in one file of any kind, with its tokenizer; damaged and unsafe files are refused."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import (
    CONTEXT,
    PATCH,
    VISION,
    Malicious,
    assert_same_outputs,
    tiny_state,
    truncate,
)

from piclip.clip.checkpoints import load_clip
from piclip.clip.conversion import clip_from_state_dict
from piclip.clip.settings import ModelSettings
from piclip.clip.weight_files import read_state_dict
from piclip.errors import ModelError
from sentences import one_sentence


class OpenAIArchive(torch.nn.Module):
    """A module whose state dict has OpenAI's names, to be scripted as OpenAI's files are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class HasMask(OpenAIArchive):
    """A block: its mask is a plain attribute, in no state dict."""

    def __init__(self):
        super().__init__()
        self.attn_mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)


def nested_module(state):
    root = OpenAIArchive()
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, HasMask() if part.isdigit() else OpenAIArchive())
            module = getattr(module, part)
        module.register_buffer(leaf, tensor)
    root.visual.conv1 = torch.nn.Conv2d(3, VISION, PATCH, PATCH, bias=False)  # has a list of ints
    root.visual.conv1.weight.data = state["visual.conv1.weight"]
    return root


def archived(state):
    """The state as OpenAI's archives hold it: float16, with scalars."""
    scalars = {"input_resolution": torch.tensor(48), "context_length": torch.tensor(CONTEXT)}
    return {name: tensor.half() for name, tensor in state.items()} | scalars


def write_torchscript(state, path):
    torch.jit.save(torch.jit.script(nested_module(archived(state))), path)


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


@pytest.mark.parametrize(("patch", "size"), [(16, 480), (32, 480), (14, 476)])
def test_photographs_are_encoded_at_480_rounded_to_the_patch(
    tmp_path, tokenizer_folder, patch, size
):
    save_file(tiny_state(patch=patch), tmp_path / "x.safetensors")
    loaded = load_clip(tmp_path / "x.safetensors", tokenizer=tokenizer_folder)
    assert loaded.settings.image_size == size


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


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_an_archive_has_the_tensors_that_torch_would_read(tmp_path):
    write_torchscript(tiny_state(), tmp_path / "x.pt")
    read = read_state_dict(tmp_path / "x.pt")
    expected = torch.jit.load(tmp_path / "x.pt").state_dict()
    assert expected.keys() == archived(tiny_state()).keys()
    assert read.keys() - expected.keys() == {
        f"{tower}transformer.resblocks.{block}.attn_mask"
        for tower, blocks in (("visual.", 2), ("", 1))
        for block in range(blocks)
    }
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_tensors_that_repeat_a_few_numbers_are_refused_before_they_are_copied(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="larger than the file") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error)


def test_a_block_of_an_absurd_number_is_refused_quickly(tmp_path):
    state = tiny_state() | {"transformer.resblocks.999999999999.ln_1.bias": torch.zeros(1)}
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="is missing") as error:
        load_clip(tmp_path / "x.pt")
    assert one_sentence(error)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(3), {"state_dict": {"a": 1}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="holds no state dict") as error:
        load_clip(tmp_path / "x.pt")
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
