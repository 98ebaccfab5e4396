from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.decoders.hierarchical_matching import (
    AffineNorm,
    HierarchicalMatching,
    MaskedMatching,
    MatchingOptions,
    SelfAttention,
    correlation_distillation,
)
from piclip.decoders.published import MATCHING
from piclip.errors import UsageError


@pytest.fixture(scope="module")
def golden(shared: Path):
    with np.load(shared / "golden/hdmnet_decoder_upstream.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def published_weights(golden, shots: int) -> dict[str, Tensor]:
    weights = {}
    for prefix in ("state_dict/", "state_dict_shot5_only/")[: 2 if shots == 5 else 1]:
        for name, array in golden.items():
            if name.startswith(prefix):
                tensor = torch.from_numpy(np.asarray(array))
                half = tensor.dtype == torch.float16
                weights[name.removeprefix(prefix)] = tensor.float() if half else tensor
    return weights


@pytest.mark.parametrize("shots", [1, 5])
def test_equals_the_published_decoder(golden, shots: int) -> None:
    network = HierarchicalMatching(MatchingOptions(), 2 + 2 * shots).eval()
    network.load_state_dict(MATCHING.to_own(published_weights(golden, shots)), strict=True)

    def given(name: str) -> Tensor:
        return torch.from_numpy(golden[f"shot{shots}/in/{name}"]).float()

    def per_query(flat: Tensor) -> Tensor:
        return flat.unflatten(0, (-1, shots))

    with torch.no_grad():
        logits, correlations = network(
            given("query_feat"),
            per_query(given("supp_feat")),
            per_query(given("mask")[:, 0]),
            torch.cat([given("img_cam"), given("clip_similarity")], 1),
        )
    expected = [golden[f"shot{shots}/out/weights_{level}"] for level in range(3)]
    np.testing.assert_allclose(logits, golden[f"shot{shots}/out/meta_out"], atol=2e-5)
    assert len(correlations) == 3
    for correlation, wanted in zip(correlations, expected, strict=True):
        np.testing.assert_allclose(correlation, wanted, atol=1e-5)


def test_matching_is_the_masked_softmax_over_the_query() -> None:
    torch.manual_seed(0)
    channels, heads, shape = 6, 2, (2, 5, 7)  # batch, query positions, support positions
    layer = MaskedMatching(channels, heads, dropout=0.0)
    query, support = torch.randn(shape[0], shape[1], channels), torch.randn(2, 7, channels)
    objects = torch.rand(shape[0], shape[2]) > 0.4
    objects[1] = False
    with torch.no_grad():
        matched, correlation = layer(query, support, objects)
        expected, mean = slow_matching(layer, query, support, objects)
    torch.testing.assert_close(matched, expected)
    torch.testing.assert_close(correlation, mean)
    assert not correlation[1].any()


def slow_matching(layer: MaskedMatching, query: Tensor, support: Tensor, objects: Tensor):
    """The formula with every column computed and zeroed after the softmax, one number at a time."""
    q, k, v = layer.query(query), layer.key(support), layer.value(support)
    width = q.shape[-1] // layer.heads
    joined = torch.zeros_like(q)
    mean = torch.zeros(q.shape[:2])
    for item, head in product(range(len(q)), range(layer.heads)):
        part = slice(head * width, (head + 1) * width)
        scores = torch.zeros(q.shape[1], k.shape[1])
        for i, j in product(range(q.shape[1]), range(k.shape[1])):
            scores[i, j] = F.cosine_similarity(q[item, i, part], k[item, j, part], dim=0) / 0.1
        for j in range(k.shape[1]):
            if objects[item, j]:
                column = scores[:, j].exp() / scores[:, j].exp().sum()
                joined[item, :, part] += column[:, None] * v[item, j, part]
                mean[item] += scores[:, j] / objects[item].sum() / layer.heads
    return layer.output(joined), mean


def test_a_support_given_twice_counts_twice_in_the_matching_and_once_in_the_correlation() -> None:
    torch.manual_seed(2)
    layer = MaskedMatching(8, 2, dropout=0.0)
    query, support, objects = torch.randn(1, 5, 8), torch.randn(1, 7, 8), torch.rand(1, 7) > 0.4
    with torch.no_grad():
        once, correlation = layer(query, support, objects)
        twice, same = layer(query, support.repeat(1, 2, 1), objects.repeat(1, 2))
    torch.testing.assert_close(twice, 2 * once)
    torch.testing.assert_close(same, correlation)


def test_shots_are_columns_of_one_matching() -> None:
    torch.manual_seed(1)
    network = tiny().eval()
    query, supports = torch.randn(1, 8, 12, 9), torch.randn(1, 3, 8, 12, 9)
    masks = (torch.rand(1, 3, 40, 30) > 0.7).long()
    priors = torch.rand(1, 2, 5, 5)
    with torch.no_grad():
        found, _ = network(query, supports, masks, priors)
        turned, _ = network(query, supports.flip(1), masks.flip(1), priors)
        empty = masks.clone()
        empty[:, 2] = 255  # ignore is not object: the third support says nothing
        two, _ = network(query, supports[:, :2], masks[:, :2], priors)
        three, _ = network(query, supports, empty, priors)
    assert found.shape == (1, 2, 12, 9)
    torch.testing.assert_close(found, turned, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(two, three, atol=1e-5, rtol=1e-4)


def tiny(prior_channels: int = 2, heads: tuple[int, ...] = (1, 2, 2)) -> HierarchicalMatching:
    options = MatchingOptions(
        matching_width=8, heads=heads, blocks=1, expansion=2, matching_dropout=0.0
    )
    return HierarchicalMatching(options, prior_channels)


def test_distillation_is_the_chain_of_divergences() -> None:
    torch.manual_seed(2)
    levels = [torch.randn(2, size, size, requires_grad=True) for size in (2, 4)]
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0, :4, :4] = 1  # the quarter that is one position of the coarsest level
    target[1, :, :4] = 1
    target[1, 7, 7] = 255
    loss = correlation_distillation(levels, target)
    loss.backward()

    first, second = (level.detach() for level in levels)
    truth = torch.tensor([[1.0, 0, 0, 0], [0.5, 0, 0.5, 0]])
    middle = F.interpolate(first[:, None], (4, 4), mode="bilinear", align_corners=False)
    teachers = (truth, middle.flatten(1).softmax(1))
    expected = 0.0
    for teacher, student in zip(teachers, (first, second), strict=True):
        chosen = student.flatten(1).softmax(1)
        for item, position in product(range(2), range(teacher.shape[1])):
            t, s = teacher[item, position], chosen[item, position]
            if t > 0:
                expected += float(t * (t / s).log()) / 2 / 2  # mean over batch and levels
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    gradient = (first.flatten(1).softmax(1) - truth) / 4  # the coarse level as a student only
    torch.testing.assert_close(levels[0].grad.flatten(1), gradient)


def test_reduced_self_attention_refuses_a_map_smaller_than_a_patch() -> None:
    layer = SelfAttention(4, heads=1, reduction=4, dropout=0.0)
    with pytest.raises(UsageError, match="at least 4 x 4"):
        layer(torch.zeros(1, 9, 4), (3, 3))


def test_affine_norm_is_the_same_in_training() -> None:
    norm = AffineNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
    maps = torch.randn(2, 3, 4, 4)
    trained = norm.train()(maps)
    torch.testing.assert_close(trained, torch.nn.BatchNorm2d.forward(norm.eval(), maps))
    torch.testing.assert_close(norm.running_mean, torch.tensor([1.0, 0.0, -1.0]))


@pytest.mark.parametrize(
    ("heads", "message"), [((3, 3, 3), "multiple"), ((1, 1), "one entry per level")]
)
def test_impossible_sizes_are_refused(heads, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(heads=heads)


def test_the_number_of_priors_is_checked() -> None:
    network = tiny(prior_channels=4)
    features = torch.zeros(1, 8, 12, 12)
    with pytest.raises(UsageError, match="takes 4 prior maps per query but got 2"):
        network(features, features[None], torch.ones(1, 1, 12, 12), torch.zeros(1, 2, 12, 12))
