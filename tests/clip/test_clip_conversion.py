"""OpenAI's and open_clip's weights become the model of the reference; others are refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_clip import CONTEXT, VISION, assert_same_outputs, outputs, tiny_state
from torch.nn.functional import interpolate, normalize

from piclip.clip.conversion import clip_from_state_dict
from piclip.errors import ModelError, UsageError
from sentences import one_sentence

CASES = ["s1_100x75", "s2_96x128_targetonly", "s3_112x112_targetonly"]


# Conversion against the reference's arrays.


@pytest.fixture(scope="module")
def golden_model(shared):
    return clip_from_state_dict(load_file(shared / "golden" / "tiny_openai_clip.safetensors"))


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


# Weights of another kind.


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
