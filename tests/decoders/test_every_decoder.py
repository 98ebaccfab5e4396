"""Properties that every decoder has, whatever it is inside."""

from __future__ import annotations

import json

import huggingface_hub.hub_mixin
import pytest
import torch
from small_decoders import OPTIONS, small_decoder
from torch import Tensor

from piclip.decoders import DecoderOutput, build_decoder, load_decoder
from piclip.decoders.pspnet import PSPNet
from piclip.errors import ModelError, UsageError
from sentences import one_sentence

every_decoder = pytest.mark.parametrize("name", OPTIONS)
every_prior = pytest.mark.parametrize("prior", ["imagenet", "piclip", "none"])


def episode(
    shots: int = 1, *, batch: int = 2, height: int = 41, width: int = 41, priors: bool = False
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(shots)
    masks = torch.zeros(batch, shots, height, width, dtype=torch.uint8)
    masks[..., 8:30, 10:25] = 1
    masks[..., :4, :] = 255
    tensors = {
        "query": torch.randn(batch, 3, height, width, generator=generator),
        "supports": torch.randn(batch, shots, 3, height, width, generator=generator),
        "masks": masks,
    }
    if priors:
        tensors["priors"] = torch.rand(batch, 2, 7, 5, generator=generator)
    return tensors


def tensors_of(output: DecoderOutput) -> list[Tensor]:
    base = [] if output.base_logits is None else [output.base_logits]
    return [output.logits, *output.auxiliary, *base]


@every_decoder
@every_prior
@torch.no_grad()
def test_takes_any_number_of_shots(name, prior):
    decoder = small_decoder(name, prior=prior)
    for shots in (1, 2, 3, 4, 5):
        output = decoder(**episode(shots, priors=prior == "piclip"))
        assert output.logits.shape == (2, 2, 41, 41)
        assert all(tensor.isfinite().all() for tensor in tensors_of(output))


@every_decoder
@every_prior
@torch.no_grad()
def test_items_of_a_batch_do_not_touch_each_other(name, prior):
    decoder = small_decoder(name, prior=prior)
    both = episode(2, priors=prior == "piclip")
    together = tensors_of(decoder(**both))
    for item in range(2):
        alone = tensors_of(decoder(**{key: value[item : item + 1] for key, value in both.items()}))
        for joint, single in zip(together, alone, strict=True):
            torch.testing.assert_close(joint[item : item + 1], single, rtol=1e-4, atol=1e-5)


@every_decoder
@torch.no_grad()
def test_the_order_of_the_supports_does_not_matter(name):
    decoder = small_decoder(name)
    given = episode(3)
    given["masks"][:, 1, 8:20] = 0
    expected = decoder(**given).logits
    order = [2, 0, 1]
    given["supports"], given["masks"] = given["supports"][:, order], given["masks"][:, order]
    torch.testing.assert_close(decoder(**given).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pfenet", "bam"])
@torch.no_grad()
def test_where_supports_are_averaged_the_same_one_twice_is_like_once(name):
    decoder = small_decoder(name)
    once = episode(1)
    twice = {**once, "supports": once["supports"].expand(-1, 2, -1, -1, -1)}
    twice["masks"] = once["masks"].expand(-1, 2, -1, -1)
    torch.testing.assert_close(
        decoder(**twice).logits, decoder(**once).logits, rtol=1e-4, atol=1e-5
    )


@every_decoder
@every_prior
@torch.no_grad()
def test_images_need_not_be_square_or_of_the_supports_size(name, prior):
    decoder = small_decoder(name, prior=prior)
    given = episode(2, height=33, width=58, priors=prior == "piclip")
    other = episode(2, height=50, width=40)
    output = decoder(**{**given, "supports": other["supports"], "masks": other["masks"]})
    for tensor in tensors_of(output):
        assert tensor.shape[-2:] == (33, 58)
        assert tensor.isfinite().all()


@every_decoder
@torch.no_grad()
def test_ignored_pixels_of_a_support_are_not_the_object(name):
    decoder = small_decoder(name)
    given = episode(1)
    expected = decoder(**given).logits
    given["masks"][given["masks"] == 255] = 0
    torch.testing.assert_close(decoder(**given).logits, expected)


@every_decoder
def test_an_empty_mask_gives_finite_scores_and_gradients(name):
    decoder = small_decoder(name).train()
    given = episode(2)
    given["masks"] = torch.zeros_like(given["masks"])
    output = decoder(**given)
    decoder.loss(output, torch.zeros(2, 41, 41, dtype=torch.long))["loss"].backward()
    assert output.logits.isfinite().all()
    grads = [p.grad for p in decoder.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


@every_decoder
@torch.no_grad()
def test_the_clip_priors_decide_something(name):
    decoder = small_decoder(name, prior="piclip")
    given = episode(1, priors=True)
    before = decoder(**given).logits
    given["priors"] = 1 - given["priors"]
    assert not torch.allclose(decoder(**given).logits, before)


@every_decoder
def test_the_frozen_parts_are_not_trained_and_stay_in_evaluation(name):
    decoder = small_decoder(name).train()
    parts = [decoder.backbone]
    if decoder.knows_base_classes:
        parts.append(decoder.base_learner)
    frozen = {id(p) for part in parts for p in part.parameters()}
    before = {k: v.clone() for k, v in decoder.backbone.state_dict().items()}
    target = torch.randint(0, 2, (2, 41, 41))
    base_target = torch.randint(0, 4, (2, 41, 41))
    losses = decoder.loss(decoder(**episode(2)), target, base_target)
    losses["loss"].backward()
    optimizer = torch.optim.SGD([p for p in decoder.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    assert decoder.training
    assert not any(m.training for part in parts for m in part.modules())
    for parameter in decoder.parameters():
        assert (parameter.grad is None) == (id(parameter) in frozen)
    assert all(torch.equal(v, before[k]) for k, v in decoder.backbone.state_dict().items())


@every_decoder
def test_the_loss_is_the_sum_of_its_terms(name):
    decoder = small_decoder(name).train()
    target = torch.randint(0, 2, (2, 41, 41))
    target[:, :3] = 255
    output = decoder(**episode(1))
    losses = decoder.loss(output, target, target)
    expected = sum(value for term, value in losses.items() if term != "loss")
    torch.testing.assert_close(losses["loss"], expected)
    assert ("base" in losses) == (output.base_logits is not None)


@every_decoder
@every_prior
def test_saves_and_loads(name, prior, tmp_path):
    decoder = small_decoder(name, prior=prior)
    decoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["decoder"] == name
    assert config["backbone_options"] == {"width": 4}
    loaded = load_decoder(tmp_path)
    assert type(loaded) is type(decoder)
    assert not loaded.training
    given = episode(2, priors=prior == "piclip")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**given).logits, decoder(**given).logits)


@every_decoder
def test_pushes_the_same_folder_to_the_hub(name, tmp_path, monkeypatch):
    class Api:
        def __init__(self, **_):
            self.files = set()

        def create_repo(self, repo_id, **_):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path, **_):
            return sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    pushed = small_decoder(name).push_to_hub("someone/decoder")
    assert pushed == ["README.md", "config.json", "model.safetensors"]


@every_decoder
def test_takes_over_the_backbone_of_a_base_learner(name):
    decoder = small_decoder(name)
    learner = PSPNet(backbone="tiny", classes=3, backbone_options={"width": 4}, width=8)
    decoder.load_base_learner(learner)
    own = decoder.backbone.state_dict()
    assert all(torch.equal(own[k], v) for k, v in learner.backbone.state_dict().items())
    with pytest.raises(ModelError, match=f"backbone of this {name}"):
        decoder.load_base_learner(
            PSPNet(backbone="tiny", classes=3, backbone_options={"width": 2}, width=8)
        )


@every_decoder
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.ones(2, 2, 41, 41)}, "one mask"),
        ({"supports": torch.zeros(2, 3, 41, 41)}, "supports"),
        ({"query": torch.zeros(3, 3, 41, 41)}, "3 queries"),
        ({"priors": None}, "prior='piclip'"),
        ({"priors": torch.zeros(2, 1, 7, 7)}, "should be"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, change, message):
    decoder = small_decoder(name, prior="piclip")
    with pytest.raises(UsageError, match=message):
        decoder(**{**episode(1, priors=True), **change})


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(UsageError, match="choose one of pfenet, bam, hdmnet"):
        build_decoder("fptrans")
    with pytest.raises(UsageError, match="choose one of resnet50"):
        build_decoder("pfenet", backbone="swin")
    with pytest.raises(UsageError, match="imagenet, piclip or none"):
        build_decoder("pfenet", backbone="tiny", prior="clip")
    with pytest.raises(UsageError, match="no option 'depth': choose from backbone"):
        build_decoder("bam", depth=3)


@pytest.mark.parametrize("options", [{"width": "8"}, {"width": -1}, {"dropout": []}])
def test_values_that_no_network_can_have_are_said_in_one_sentence(options):
    with pytest.raises(UsageError, match="No bam can be built with the options") as e:
        build_decoder("bam", backbone="tiny", **options)
    assert str(options)[1:-1] in one_sentence(e)


def test_folders_without_a_decoder_are_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read as the configuration"):
        load_decoder(tmp_path)
    PSPNet(backbone="tiny", classes=3, backbone_options={"width": 4}, width=8).save_pretrained(
        tmp_path / "base"
    )
    with pytest.raises(ModelError, match="names 'pspnet'"):
        load_decoder(tmp_path / "base")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{"])
def test_a_config_that_is_no_json_object_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="JSON"):
        load_decoder(tmp_path)


def test_a_config_with_an_unknown_option_lists_the_valid_ones(tmp_path):
    small_decoder("pfenet").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(UsageError, match=r"no option 'depth': choose from backbone, .*scales"):
        load_decoder(tmp_path)


def test_damaged_or_foreign_weights_are_refused(tmp_path):
    small_decoder("pfenet").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="absent or damaged"):
        load_decoder(tmp_path)
    weights.write_bytes(content)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 16}))
    with pytest.raises(ModelError, match="another shape"):
        load_decoder(tmp_path)
