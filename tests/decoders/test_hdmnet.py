from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.decoders.hdmnet import HDMNet, mean_best_cosine
from piclip.decoders.networks import build_decoder, load_decoder
from piclip.decoders.pspnet import PSPNet
from piclip.errors import ModelError, UsageError

PRIORS = ["imagenet", "piclip", "none"]


def tiny(prior: str = "piclip", **options) -> HDMNet:
    torch.manual_seed(0)
    settings = {
        "backbone": "tiny",
        "backbone_options": {"width": 4},
        "base_classes": 3,
        "base_width": 16,
        "width": 16,
        "matching_width": 8,
        "heads": (1, 2, 2),
        "reductions": (2, 2, 1),
        "blocks": 1,
        "expansion": 2,
    }
    return build_decoder("hdmnet", prior=prior, **{**settings, **options})


def episode(shots: int, batch: int = 2, size: int = 65) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(shots)
    masks = torch.zeros(batch, shots, size, size, dtype=torch.long)
    masks[:, :, 10:40, 15:50] = 1
    masks[:, :, :5] = 255
    return {
        "query": torch.randn(batch, 3, size, size, generator=generator),
        "supports": torch.randn(batch, shots, 3, size, size, generator=generator),
        "masks": masks,
        "priors": torch.rand(batch, 2, 5, 5, generator=generator),
    }


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("shots", [1, 2, 5])
def test_any_prior_and_number_of_shots(prior: str, shots: int) -> None:
    network = tiny(prior).eval()
    given = episode(shots)
    with torch.no_grad():
        output = network(**given)
    assert output.logits.shape == output.auxiliary[0].shape == (2, 2, 65, 65)
    assert output.base_logits is not None
    assert output.base_logits.shape == (2, 4, 65, 65)
    assert [tuple(c.shape) for c in output.correlations] == [(2, 3, 3), (2, 5, 5), (2, 9, 9)]
    terms = network.loss(output, torch.ones(2, 65, 65, dtype=torch.long), None)
    assert set(terms) == {"main", "auxiliary", "distillation", "loss"}
    parts = terms["main"] + terms["auxiliary"] + terms["distillation"]
    torch.testing.assert_close(terms["loss"], parts)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_order_and_repetition_of_supports_do_not_matter(prior: str) -> None:
    network = tiny(prior).eval()
    given = episode(3)
    for name in ("supports", "masks"):
        given[name] = given[name][:, [0, 1, 1]]
    turned = {n: t[:, [1, 0, 1]] if n in ("supports", "masks") else t for n, t in given.items()}
    with torch.no_grad():
        torch.testing.assert_close(
            network(**given).logits, network(**turned).logits, atol=1e-5, rtol=1e-4
        )


def test_training_reaches_everything_but_the_frozen_parts() -> None:
    network = tiny(matching_dropout=0.0, dropout=0.0).train()
    given = episode(2)
    target = given["masks"][:, 0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        terms = network.loss(network(**given), target, torch.zeros_like(target))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append((terms["main"] + terms["auxiliary"]).item())
    assert losses[-1] < 0.9 * losses[0]
    still = {name for name, t in network.state_dict().items() if torch.equal(t, before[name])}
    frozen = {name for name in before if name.startswith(("backbone.", "base_learner."))}
    buffers = {name for name, _ in network.named_buffers()}
    assert still == frozen | buffers


def test_a_base_class_does_not_count_as_known_elsewhere() -> None:
    network = tiny().eval()
    with torch.no_grad():
        network.ensemble.merge.weight.fill_(1.0)
        network.base_learner.classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
        given = episode(1)
        counted = network(**given).logits
        spared = network(**given, base_class=torch.tensor([0, 1])).logits
    assert (counted[0, 0] - spared[0, 0]).min() > 0.9  # class 0 is nearly everywhere
    assert 0 < (counted[1, 0] - spared[1, 0]).max() < 0.1
    torch.testing.assert_close(counted[:, 1], spared[:, 1])


def test_outside_the_mask_a_support_is_not_seen() -> None:
    network = tiny("imagenet").eval()
    given = episode(1)
    changed = dict(given)
    outside = (given["masks"] != 1).unsqueeze(2)
    changed["supports"] = torch.where(outside, 5.0, given["supports"])
    with torch.no_grad():
        torch.testing.assert_close(network(**given).logits, network(**changed).logits)


def test_published_form_takes_every_map_or_their_mean() -> None:
    network = tiny(published_shots=5).eval()
    given = episode(5)
    text, visual = given.pop("priors").split(1, dim=1)
    assert network.merge_query[0].in_channels == 2 * 16 + 12
    with torch.no_grad():
        one = network(**given, priors=torch.cat([text, visual], 1)).logits
        all_maps = network(**given, priors=torch.cat([text, *[visual] * 10], 1)).logits
        fewer = network(**episode(2)).logits
    torch.testing.assert_close(one, all_maps)
    assert fewer.shape == (2, 2, 65, 65)
    with pytest.raises(UsageError, match="10 visual priors but got 4"):
        network(**given, priors=torch.cat([text, *[visual] * 4], 1))


def test_mean_best_cosine_is_the_slow_maximum() -> None:
    torch.manual_seed(3)
    query, supports = torch.randn(1, 4, 3, 2), torch.randn(1, 2, 4, 3, 2)
    masks = (torch.rand(1, 2, 3, 2) > 0.5).long()
    found = mean_best_cosine(query, supports, masks)
    for y in range(3):
        for x in range(2):
            best = []
            for shot in range(2):
                cosines = [
                    F.cosine_similarity(query[0, :, y, x], supports[0, shot, :, v, u], dim=0)
                    * masks[0, shot, v, u]
                    for v in range(3)
                    for u in range(2)
                ]
                best.append(max(float(c) for c in cosines))
            assert float(found[0, 0, y, x]) == pytest.approx(sum(best) / 2, abs=1e-5)


def test_takes_over_a_trained_base_learner() -> None:
    network = tiny()
    learner = PSPNet(backbone="tiny", classes=3, backbone_options={"width": 4}, width=16)
    network.load_base_learner(learner)
    own = network.state_dict()
    for name, tensor in learner.state_dict().items():
        assert torch.equal(tensor, own[name.replace("head.", "base_learner.")])
    with pytest.raises(ModelError, match="base learner"):
        network.load_base_learner(
            PSPNet(backbone="tiny", classes=4, backbone_options={"width": 4}, width=16)
        )


def test_saves_and_loads(tmp_path: Path) -> None:
    network = tiny(published_shots=1).eval()
    network.save_pretrained(tmp_path)
    loaded = load_decoder(tmp_path)
    given = episode(1)
    with torch.no_grad():
        assert torch.equal(network(**given).logits, loaded(**given).logits)


def test_the_piclip_prior_is_required() -> None:
    with pytest.raises(UsageError, match="priors"):
        tiny()(**{**episode(1), "priors": None})
