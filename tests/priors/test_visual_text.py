"""The analytic GradCAM against torch.autograd through transformers' own modules."""

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from piclip.clip.encoder import Encoder
from piclip.errors import UsageError
from piclip.priors import min_max, offset_gradient, visual_text_prior


def tiny_clip(seed: int = 0, hidden_act: str = "quick_gelu", width: int = 24) -> CLIPModel:
    torch.manual_seed(seed)
    tower = {"hidden_act": hidden_act, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
        vision_config={
            **tower,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=10,
    )
    model = CLIPModel(config)
    for parameter in model.vision_model.parameters():  # norms and biases away from one and zero
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def encode(model: CLIPModel, pixels: torch.Tensor, dtype: str = "float32"):
    """Encodes with a copy of the model, float64 where the pixels are."""
    encoder = Encoder(copy.deepcopy(model), None, device="cpu", dtype=dtype)
    if pixels.dtype == torch.float64:
        encoder.model.double()
        encoder.dtype = torch.float64
    return encoder.encode(pixels)


def autograd_gradient(model, last_input, texts, scale):
    """sum_i d softmax(scale * cos)_0 / d y_i by autograd, y the first layer norm's output."""
    layer = model.vision_model.encoder.layers[-1]
    y = layer.layer_norm1(last_input).detach().requires_grad_()
    mid = last_input + layer.self_attn(y)[0]
    out = mid + layer.mlp(layer.layer_norm2(mid))
    feature = model.visual_projection(model.vision_model.post_layernorm(out[:, 1:]).mean(1))
    score = (scale * F.normalize(feature, dim=-1) @ texts.T).softmax(-1)[:, 0]
    (gradient,) = torch.autograd.grad(score.sum(), y)
    return gradient[:, 1:].sum(1), y.detach()


def random_texts(seed: int, count: int, dim: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=-1)


@example(seed=165, hidden_act="quick_gelu", images=1, classes=8, contrasts=None, grid=(5, 2))
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    hidden_act=st.sampled_from(["quick_gelu", "gelu"]),
    images=st.integers(1, 2),
    classes=st.integers(1, 10),
    contrasts=st.sampled_from([None, 1, 3]),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_the_gradient_is_autograds(seed, hidden_act, images, classes, contrasts, grid):
    height, width = grid
    model = tiny_clip(seed % 7, hidden_act).double()
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, 8 * height, 8 * width, generator=generator, dtype=torch.float64)
    encoding = encode(model, pixels)
    foreground, background = random_texts(seed, classes), random_texts(seed + 1, classes)
    contrast = None if contrasts is None else random_texts(seed + 2, contrasts)
    ours = offset_gradient(
        encoding.last_block, foreground, background, logit_scale=7.0, contrast=contrast
    )
    cams = visual_text_prior(
        encoding.last_block,
        foreground,
        background,
        logit_scale=7.0,
        grid=encoding.grid,
        contrast=contrast,
    )
    assert cams.shape == (images, classes, height, width)
    for c in range(classes):
        texts = torch.stack([foreground[c], background[c], *(contrast if contrasts else [])])
        expected, y = autograd_gradient(model, encoding.last_input.clone(), texts, 7.0)
        # Relative to the largest entry: a single patch has a gradient of rounding size at keys.
        torch.testing.assert_close(
            ours[:, c], expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-7
        )
        # Of unit size, as ours: cancellation may leave a map that eps is not small beside.
        weights = F.normalize(expected, dim=-1, eps=1e-300)
        raw = torch.relu(torch.einsum("bd,bnd->bn", weights, y[:, 1:])).unflatten(1, (height, -1))
        assert ((cams[:, c] - min_max(raw)).abs() < 1e-4).all()


def test_many_patches_are_taken_in_pieces():
    model = tiny_clip(1).double()
    pixels = torch.randn(1, 3, 160, 144, dtype=torch.float64, generator=torch.Generator())
    encoding = encode(model, pixels)  # 360 patches, more than the MLP takes at once
    texts = random_texts(0, 2)
    ours = offset_gradient(encoding.last_block, texts[:1], texts[1:], logit_scale=100.0)
    expected, _ = autograd_gradient(model, encoding.last_input.clone(), texts, 100.0)
    torch.testing.assert_close(ours[:, 0], expected, rtol=1e-8, atol=1e-14)


def test_a_saturated_softmax_keeps_the_map():
    model = tiny_clip(2)
    encoding = encode(model, torch.randn(1, 3, 32, 40, generator=torch.Generator()))
    foreground, background = random_texts(0, 1).float(), random_texts(1, 1).float()

    def prior(scale):
        return visual_text_prior(
            encoding.last_block, foreground, background, logit_scale=scale, grid=encoding.grid
        )

    # Two texts: the direction does not depend on the scale, the gradient's length does.
    torch.testing.assert_close(prior(1e4), prior(10.0), atol=1e-5, rtol=0)
    assert prior(1e4).max() > 0.99
    gradient = offset_gradient(encoding.last_block, foreground, background, logit_scale=1e4)
    assert gradient.abs().max() < 1e-20


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.12), ("float16", 0.02)])
def test_half_precision_gives_the_map_of_float32(dtype, tolerance):
    model = tiny_clip(3)
    pixels = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(5))
    foreground, background = random_texts(3, 2).float(), random_texts(4, 2).float()
    maps = {}
    for name in ("float32", dtype):
        encoding = encode(model, pixels, name)
        maps[name] = visual_text_prior(
            encoding.last_block, foreground, background, logit_scale=100.0, grid=encoding.grid
        )
    assert maps[dtype].dtype == torch.float32
    torch.testing.assert_close(maps[dtype], maps["float32"], atol=tolerance, rtol=0)


def test_half_precision_does_not_underflow():
    model = tiny_clip(3)
    pixels = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(5))
    foreground, background = random_texts(3, 1).float(), random_texts(4, 1).float()
    block = encode(model, pixels, "float16").last_block
    gradient = offset_gradient(block, foreground, background, logit_scale=1e-7)
    # float16 ends at 6e-8.
    assert 0 < gradient.abs().max() < 1e-8
    ours = visual_text_prior(block, foreground, background, logit_scale=1e-7, grid=(6, 8))
    assert ours.max() == pytest.approx(1, abs=1e-4)


def test_wrong_shapes_are_refused():
    encoding = encode(tiny_clip(), torch.zeros(1, 3, 32, 32))
    texts = random_texts(0, 2).float()
    with pytest.raises(UsageError, match="as many"):
        visual_text_prior(encoding.last_block, texts, texts[:1], logit_scale=1.0, grid=(4, 4))
    for wrong in (texts[:0], texts[0], torch.tensor(1.0), texts[:, :-1]):
        with pytest.raises(UsageError, match="of one class at least, as many"):
            visual_text_prior(encoding.last_block, wrong, wrong, logit_scale=1.0, grid=(4, 4))
    with pytest.raises(UsageError, match="must be a finite number, not inf"):
        offset_gradient(encoding.last_block, texts, texts, logit_scale=float("inf"))
    for grid in ((4, 5), (-4, -4), (4, 4, 1)):
        with pytest.raises(UsageError, match="16 patches"):
            visual_text_prior(encoding.last_block, texts, texts, logit_scale=1.0, grid=grid)
