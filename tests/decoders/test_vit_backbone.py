"""A frozen ViT as backbone: transformers' own tokens, a cache, and decoders on it."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from piclip.decoders.backbones import build_backbone
from piclip.decoders.networks import build_decoder, load_decoder
from piclip.decoders.pspnet import PSPNet
from piclip.decoders.views import normalise
from piclip.errors import ModelError, UsageError
from sentences import one_sentence

PATCH, SIDE, DEPTH, WIDTH = 8, 32, 4, 16


def save_vit(folder, seed, **changes):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=PATCH,
        **changes,
    )
    model = transformers.ViTModel(config).eval()
    with torch.no_grad():  # no scale, bias or position is as it begins
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    return folder, save_vit(folder, 0)


def theirs(model, pixels, blocks):
    with torch.no_grad():
        found = model(pixels, output_hidden_states=True, interpolate_pos_encoding=True)
    height, width = (side // PATCH for side in pixels.shape[-2:])
    tokens = [found.hidden_states[block][:, 1:] for block in blocks]
    return [t.transpose(1, 2).unflatten(2, (height, width)) for t in tokens]


@pytest.mark.parametrize("blocks", [None, (1, 4, 2)])
def test_the_maps_are_the_tokens_of_three_blocks(vit, blocks):
    folder, model = vit
    backbone = build_backbone("vit", model=str(folder), blocks=blocks)
    images = torch.randn(2, 3, 32, 48)
    found = backbone.read(images, torch.zeros(2, 1, 32, 48))
    for own, other in zip(found, theirs(model, images, blocks or (2, 3, 4)), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    assert backbone.channels == (WIDTH,) * 3
    assert len(backbone.read(images, high=False)[2]) == 0
    torch.testing.assert_close(backbone(images)[-1], found[2])


def test_sides_are_made_multiples_of_the_patch_and_colours_those_of_the_model(vit, tmp_path):
    _, model = vit
    model.save_pretrained(tmp_path)
    statistics = '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}'
    (tmp_path / "preprocessor_config.json").write_text(statistics)
    images = torch.rand(1, 3, 30, 41)
    found = build_backbone("vit", model=str(tmp_path)).read(normalise(images))[0]
    mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    pixels = (images - mean) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    pixels = F.interpolate(pixels, (32, 48), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, theirs(model, pixels, (2,))[0], atol=1e-5, rtol=1e-5)


def test_a_cache_does_not_change_the_maps_and_is_not_shared_by_other_blocks(vit, tmp_path):
    folder, _ = vit
    images = torch.randn(3, 3, SIDE, SIDE)

    def read(**options):
        return build_backbone("vit", model=str(folder), **options)(images)

    cold, warm = read(cache=tmp_path), read(cache=tmp_path)
    assert len([*tmp_path.rglob("*.safetensors")]) == len(images)
    for plain, first, again in zip(read(), cold, warm, strict=True):
        torch.testing.assert_close(first, plain)
        assert torch.equal(first, again)
    other, plain = read(cache=tmp_path, blocks=(1, 2, 3)), read(blocks=(1, 2, 3))
    torch.testing.assert_close(other[0], plain[0])


@pytest.mark.parametrize("prior", ["imagenet", "none"])
@pytest.mark.parametrize("name", ["pfenet", "bam", "hdmnet"])
def test_every_decoder_learns_on_it_and_is_saved_without_it(vit, tmp_path, name, prior):
    options = {"backbone": "vit", "backbone_options": {"model": str(vit[0])}}
    decoder = build_decoder(name, **options, prior=prior, width=8)
    decoder.load_base_learner(PSPNet(**options, classes=15))
    query, supports = torch.randn(2, 3, 32, 32), torch.randn(2, 1, 3, 32, 32)
    masks = torch.zeros(2, 1, 32, 32)
    masks[..., 4:20, 4:20] = 1
    output = decoder.train()(query, supports, masks)
    assert output.logits.shape == (2, 2, 32, 32)
    decoder.loss(output, masks[:, 0].long())["loss"].backward()
    assert decoder.reduce_query[0].weight.grad.abs().sum() > 0
    decoder.eval().save_pretrained(tmp_path)
    assert not [key for key in decoder.state_dict() if key.startswith("backbone.tower")]
    again = load_decoder(tmp_path)
    with torch.no_grad():
        expected, found = (d(query, supports, masks).logits for d in (decoder, again))
    torch.testing.assert_close(found, expected)


def test_the_previous_prior_compares_with_the_object_alone(vit):
    decoder = build_decoder(
        "pfenet", backbone="vit", backbone_options={"model": str(vit[0])}, width=8
    )
    image = torch.randn(1, 3, SIDE, SIDE)
    masks = torch.zeros(1, 1, SIDE, SIDE)
    masks[..., : PATCH + 4, :PATCH] = 1
    seen, shown = decoder.query_features(image), decoder.support_features(image[None], masks)
    prior = decoder.imagenet_priors(seen, shown, masks)[0, 0]
    last = F.normalize(seen.high[0].flatten(1), dim=0)
    touched = F.interpolate(masks, (4, 4), mode="bilinear", align_corners=True).flatten() > 0
    cosines = (last.T @ last)[:, touched].amax(1).clamp(min=0).view(4, 4)  # 0 outside the mask
    expected = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    torch.testing.assert_close(prior, expected, atol=1e-4, rtol=1e-4)


def test_a_decoder_refuses_another_vit_than_that_of_its_training(vit, tmp_path):
    folder, _ = vit
    save_vit(tmp_path / "vit", 1)
    decoder = build_decoder(
        "pfenet", backbone="vit", backbone_options={"model": str(tmp_path / "vit")}, width=8
    )
    decoder.save_pretrained(tmp_path / "decoder")
    for file in folder.iterdir():
        (tmp_path / "vit" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"trained on another ViT than .*vit") as error:
        load_decoder(tmp_path / "decoder").query_features(torch.randn(1, 3, SIDE, SIDE))
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "vit the model"),
        ({"model": "", "depth": 3}, "vit the model"),
        ({"blocks": (1, 2)}, "three blocks from 1 to 4"),
        ({"blocks": (0, 2, 3)}, "three blocks from 1 to 4"),
        ({"blocks": (1, 2, 5)}, "not 1, 2, 5"),
    ],
)
def test_impossible_options_say_what_is_possible(vit, options, message):
    where = {"model": str(vit[0])} if "blocks" in options else {}
    with pytest.raises(UsageError, match=message) as error:
        build_backbone("vit", **where, **options)
    assert one_sentence(error)
