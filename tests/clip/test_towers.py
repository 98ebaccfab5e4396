"""Image towers without texts: transformers' own tokens, towers read from folders, refusals."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
import transformers
from fake_hub import Hub, cached
from safetensors.torch import load_file, save_file
from tiny_clip import Malicious, truncate
from torch.testing import assert_close
from transformers import AutoConfig

from piclip.clip.cache import weights_hash
from piclip.clip.towers import VisualTower, holds_text_tower
from piclip.errors import ModelError, UsageError
from sentences import one_sentence

PATCH, SIDE, DEPTH, WIDTH = 8, 48, 3, 32
SIZES = {"native": (SIDE, SIDE), "larger": (72, 72), "wide": (40, 72), "same number": (32, 72)}
ALL_BLOCKS = range(1, DEPTH + 1)

SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": PATCH,
}
REGISTERS = {**SMALL, "num_register_tokens": 4}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
PAIR = {"vision_config": SMALL, "text_config": TEXT}


class Kind(NamedTuple):
    """A model to save: its configuration and class, and where its image tower's parts are."""

    model_type: str
    config: dict
    saved_as: str
    prefix: int  # tokens before the patches
    tower: str | None = None
    norm: str | None = "layernorm"


KINDS = [
    Kind("vit", SMALL, "ViTModel", 1),
    Kind("vit", SMALL, "ViTForImageClassification", 1, tower="vit"),
    Kind("deit", SMALL, "DeiTModel", 2),
    Kind("dinov2", SMALL, "Dinov2Model", 1),
    Kind("dinov2_with_registers", REGISTERS, "Dinov2WithRegistersModel", 5),
    Kind("dinov3_vit", REGISTERS, "DINOv3ViTModel", 5, norm="norm"),
    Kind("clip", PAIR, "CLIPModel", 1, tower="vision_model", norm=None),
    Kind("clip_vision_model", SMALL, "CLIPVisionModel", 1, norm=None),
    Kind("siglip", PAIR, "SiglipModel", 0, tower="vision_model", norm="post_layernorm"),
    Kind("siglip_vision_model", SMALL, "SiglipVisionModel", 0, norm="post_layernorm"),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.saved_as)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Gives the folder of a small random model of a kind, made once."""
    folders = {}

    def folder_of(kind):
        if kind.saved_as not in folders:
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind.model_type, **kind.config)
            model = getattr(transformers, kind.saved_as)(config)
            with torch.no_grad():  # no norm, scale, bias or position is as it begins
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            folders[kind.saved_as] = tmp_path_factory.mktemp(kind.saved_as)
            model.save_pretrained(folders[kind.saved_as])
        return folders[kind.saved_as]

    return folder_of


@pytest.fixture
def vit(saved, tmp_path):
    """The folder of a ViT of the test's own, to change as it likes."""
    return shutil.copytree(saved(KINDS[0]), tmp_path / "vit")


def change(file, **values):
    """Changes values in a JSON file, which need not be there."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def change_weights(folder, drop=(), rename=lambda name: name):
    weights = load_file(folder / "model.safetensors")
    kept = {rename(name): value for name, value in weights.items() if not name.startswith(drop)}
    assert set(kept) != set(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def pixels_of(size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def load(folder, **options):
    return VisualTower.from_pretrained(folder, device="cpu", **options)


@every_kind
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_the_tokens_are_those_of_transformers(saved, kind, size):
    model = getattr(transformers, kind.saved_as).from_pretrained(saved(kind)).eval()
    model = getattr(model, kind.tower) if kind.tower else model
    # DINO's models resize their positions without being told.
    told = {} if "dino" in kind.model_type else {"interpolate_pos_encoding": True}
    theirs = model(pixels_of(size), output_hidden_states=True, **told)
    ours = load(saved(kind)).tokens(pixels_of(size), ALL_BLOCKS)
    patches = (size[0] // PATCH) * (size[1] // PATCH)
    assert [tokens.shape for tokens in ours] == DEPTH * [(2, patches, WIDTH)]
    last = getattr(model, kind.norm)(ours[-1]) if kind.norm else ours[-1]
    expected = [*theirs.hidden_states[1:DEPTH], theirs.last_hidden_state]
    for tokens, states in zip([*ours[:-1], last], expected, strict=True):
        assert states.shape[1] == kind.prefix + patches
        assert_close(tokens, states[:, kind.prefix :], atol=1e-4, rtol=0)


def test_deit_tiny_gives_its_published_tokens(shared):
    folder = shared / "models" / "deit-tiny"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/models/deit-tiny is not here")
    tower = load(folder)
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval().vit
    pixels = pixels_of((224, 224))
    (ours,) = tower.tokens(pixels, [12])
    with torch.no_grad():
        expected = model(pixels).last_hidden_state
        assert_close(model.layernorm(ours), expected[:, 1:], atol=1e-4, rtol=0)
    assert (tower.depth, tower.width, tower.patch_size) == (12, 192, 16)
    assert tower.settings.image_size == 336
    assert tower.settings.mean == (0.485, 0.456, 0.406)
    assert tower.settings.std == (0.229, 0.224, 0.225)


@every_kind
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near_float32(saved, kind, dtype):
    half, full = load(saved(kind), dtype=dtype), load(saved(kind))
    for ours, exact in zip(
        half.tokens(pixels_of(SIZES["wide"]), ALL_BLOCKS),
        full.tokens(pixels_of(SIZES["wide"]), ALL_BLOCKS),
        strict=True,
    ):
        assert ours.dtype == getattr(torch, dtype)
        assert (ours.float() - exact).norm() < 0.03 * exact.norm()


def test_rotary_frequencies_stay_exact_in_half_precision(saved):
    dinov3 = next(kind for kind in KINDS if kind.model_type == "dinov3_vit")
    half, full = load(saved(dinov3), dtype="bfloat16"), load(saved(dinov3))
    exact = dict(full.model.named_buffers())
    assert exact
    for name, frequencies in half.model.named_buffers():
        assert_close(frequencies, exact[name], atol=0, rtol=0)


def test_blocks_come_as_they_were_asked_for_and_no_hook_stays(vit):
    tower = load(vit)
    pixels = pixels_of(SIZES["native"])
    first, second, third = tower.tokens(pixels, ALL_BLOCKS)
    for ours, expected in zip(tower.tokens(pixels, (3, 1, 3)), (third, first, third), strict=True):
        assert torch.equal(ours, expected)
    assert not torch.equal(first, second)
    assert not any(module._forward_hooks for module in tower.model.modules())


def test_threads_get_the_tokens_of_their_own_images(vit):
    tower = load(vit)
    images = [pixels_of((PATCH * rows, SIDE)) for rows in range(2, 10)]
    expected = [tower.tokens(pixels, [1, 3]) for pixels in images]
    with ThreadPoolExecutor(len(images)) as threads:
        results = threads.map(lambda pixels: tower.tokens(pixels, [1, 3]), images)
        for ours, alone in zip(results, expected, strict=True):
            assert_close(ours, alone, atol=1e-5, rtol=0)


def test_a_tower_is_frozen_and_tells_where_it_is_from(vit):
    tower = load(str(vit)).to("cpu")
    assert (tower.source, tower.revision, tower.device.type) == (str(vit), None, "cpu")
    assert not tower.model.training
    assert not any(parameter.requires_grad for parameter in tower.model.parameters())


@pytest.mark.parametrize(
    ("kind", "head"),
    [(KINDS[0], "pooler."), (KINDS[-1], "head."), (KINDS[3], "embeddings.mask_token")],
    ids=["ViT", "SigLIP", "DINOv2"],
)
def test_a_head_may_be_absent_and_leaves_no_trace(saved, kind, head, tmp_path):
    """What is random when absent must not make the same weights look different."""
    folder = shutil.copytree(saved(kind), tmp_path / "model")
    change_weights(folder, drop=head)
    ours, again = load(folder), load(folder)
    assert weights_hash(ours.model) == weights_hash(again.model)
    pixels = pixels_of(SIZES["native"])
    expected = load(saved(kind)).tokens(pixels, [DEPTH])[0]
    assert torch.equal(ours.tokens(pixels, [DEPTH])[0], expected)


@pytest.mark.parametrize(("trained", "size"), [(64, 96), (56, 80), (376, 560), (384, 384)])
def test_images_are_half_as_large_again_as_in_training_unless_that_was_large(trained, size):
    model = transformers.ViTModel(transformers.ViTConfig(**SMALL | {"image_size": trained}))
    assert VisualTower(model, device="cpu").settings.image_size == size


def test_preprocessing_is_what_the_folder_says(vit):
    tower = load(vit)
    assert tower.settings.mean == (0.485, 0.456, 0.406) and tower.settings.image_size == 72
    change(vit / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5], image_std=[0.4, 0.5, 0.6])
    tower = load(vit)
    assert tower.settings.mean == (0.5, 0.5, 0.5) and tower.settings.std == (0.4, 0.5, 0.6)
    change(vit / "piclip.json", image_size=120, mean=[0.1, 0.2, 0.3], threshold=0.4)
    tower = load(vit)
    assert tower.settings.mean == (0.1, 0.2, 0.3) and tower.settings.std == (0.4, 0.5, 0.6)
    assert tower.settings.image_size == 120


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 100},
        {"image_size": 0},
        {"image_size": "96"},
        {"image_size": 96.0},
        {"mean": [0.5, 0.5]},
        {"mean": 0.5},
        {"std": [0.2, 0.0, 0.2]},
        {"std": [0.2, "wide", 0.2]},
        {"std": [0.2, float("nan"), 0.2]},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(vit, values):
    change(vit / "piclip.json", **values)
    with pytest.raises(ModelError, match="not valid") as error:
        load(vit)
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_'), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
        (lambda folder: change(folder / "config.json", hidden_size="wide"), "cannot be read"),
        (lambda folder: change(folder / "config.json", hidden_size=64), "cannot be read"),
        (lambda folder: change(folder / "config.json", num_channels=1), "cannot be read"),
        (lambda folder: change(folder / "config.json", num_hidden_layers=4), "is missing"),
        (lambda folder: change(folder / "config.json", model_type="resnet"), "'resnet'.*dinov2"),
        (lambda folder: change(folder / "config.json", model_type="swin"), "'swin'.*dinov2"),
        (lambda folder: change(folder / "config.json", model_type="bert"), "'bert'.*dinov2"),
        (lambda folder: change(folder / "config.json", model_type=["vit"]), "dinov2"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no complete weights"),
        (lambda folder: truncate(folder / "model.safetensors"), "cannot be read"),
        (lambda folder: change_weights(folder, drop="layernorm."), "layernorm.bias is missing"),
        (lambda folder: change_weights(folder, rename=lambda name: f"x.{name}"), "is missing"),
    ],
)
def test_a_damaged_folder_is_explained(vit, damage, words):
    damage(vit)
    with pytest.raises(ModelError, match=words) as error:
        load(vit)
    assert one_sentence(error)


def test_a_pickled_tower_loads_and_an_unsafe_one_does_not(vit):
    weights = load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    torch.save(weights, vit / "pytorch_model.bin")
    assert load(vit).depth == DEPTH
    torch.save(weights | {"code": Malicious(vit)}, vit / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read") as error:
        load(vit)
    assert one_sentence(error) and not (vit / "owned").exists()


def test_a_model_in_memory_must_be_a_bare_tower_of_rgb_images():
    config = transformers.ViTConfig(**SMALL)
    for model in (
        transformers.ViTForImageClassification(config),
        transformers.BertModel(transformers.BertConfig(**SMALL | {"vocab_size": 50})),
    ):
        with pytest.raises(ModelError, match=f"A {type(model).__name__} is no") as error:
            VisualTower(model, device="cpu")
        assert one_sentence(error)
    config.num_channels = 1
    with pytest.raises(ModelError, match="not of RGB images") as error:
        VisualTower(transformers.ViTModel(config), device="cpu")
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("shape", "blocks", "words"),
    [
        ((2, 3, 48, 50), [1], "multiples of the model's patch of 8"),
        ((2, 1, 48, 48), [1], "batch, 3, height, width"),
        ((3, 48, 48), [1], "batch, 3, height, width"),
        ((2, 3, 48, 48), [1, 0], "no block 0.*1 to 3"),
        ((2, 3, 48, 48), [-1], "no block -1"),
        ((2, 3, 48, 48), [4], "no block 4"),
    ],
)
def test_pixels_and_blocks_that_do_not_fit_are_refused(vit, shape, blocks, words):
    with pytest.raises(UsageError, match=words) as error:
        load(vit).tokens(torch.zeros(shape), blocks)
    assert one_sentence(error)


@every_kind
def test_only_clip_has_texts_that_are_read(saved, kind):
    assert holds_text_tower(saved(kind)) == (kind.model_type == "clip")


def test_what_names_no_kind_of_model_is_left_to_the_reader_of_clips(weights_file, vit):
    assert holds_text_tower("builtin") and holds_text_tower(weights_file)
    (vit / "config.json").write_text('{"decoder": "BAM"}')
    assert holds_text_tower(str(vit))
    with pytest.raises(ModelError, match="is a file") as error:
        load(weights_file)
    assert one_sentence(error)


def test_another_kind_of_model_is_refused_before_its_weights_are_wanted(vit):
    change(vit / "config.json", model_type="resnet")
    with pytest.raises(ModelError, match=r"'resnet', not a CLIP.*siglip") as error:
        holds_text_tower(vit)
    assert one_sentence(error)


def test_a_tower_of_the_hub_needs_no_tokenizer(monkeypatch, tmp_path, vit):
    asked = Hub(monkeypatch, tmp_path, vit)
    assert not holds_text_tower("some/vit", revision="v1")
    assert "model.safetensors" not in asked.downloads[0]
    tower = load("some/vit", revision="v1")
    assert "model.safetensors" in asked.downloads[1]
    assert (tower.source, tower.revision, asked.revision) == ("some/vit", "v1", "v1")


def test_a_cached_tower_loads_without_a_question(monkeypatch, tmp_path, vit):
    asked = Hub(monkeypatch, tmp_path, OSError("no network"))
    cached(tmp_path / "cache", vit, name="some/vit")
    assert not holds_text_tower("some/vit", local_files_only=True)
    assert load("some/vit", local_files_only=True).depth == DEPTH
    assert asked.questions == 0
