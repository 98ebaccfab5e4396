"""Parts of an image, the area under a curve and the spread of cosines, by slow versions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from piclip.training_free.clusters import COUNTS, average_over_parts, cluster_parts
from piclip.training_free.evidence import cosine_spreads
from piclip.training_free.naming import area_under_curve, name_trust


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator), dim=-1)


def slow_parts(tokens, count):
    """Average linkage by hand: joins the two nearest parts until ``count`` are left."""
    distance = (1 - tokens.double() @ tokens.double().mT).numpy()
    parts = [[number] for number in range(len(tokens))]
    while len(parts) > count:
        pairs = itertools.combinations(range(len(parts)), 2)
        one, other = min(pairs, key=lambda p: distance[np.ix_(parts[p[0]], parts[p[1]])].mean())
        parts[one] += parts.pop(other)
    return {frozenset(part) for part in parts}


@settings(max_examples=20)
@given(number=st.integers(2, 30), seed=st.integers(0, 99))
def test_parts_are_those_of_average_linkage(number, seed):
    tokens = unit(number, 5, seed=seed)
    cuts = cluster_parts(tokens)
    assert cuts.shape == (len(COUNTS), number) and cuts.dtype == torch.int64
    for cut, count in zip(cuts, COUNTS, strict=True):
        groups = {frozenset(torch.nonzero(cut == part).flatten().tolist()) for part in cut.unique()}
        assert len(groups) == cut.max() + 1 == min(count, number)
        assert groups == slow_parts(tokens, count)


def test_parts_of_equal_patches_are_found():
    kinds = unit(3, 8)
    tokens = kinds[torch.arange(30) % 3]
    for cut in cluster_parts(tokens):
        for part in cut.unique():
            assert len(set((torch.arange(30) % 3)[cut == part].tolist())) == 1


@given(number=st.integers(2, 30), seed=st.integers(0, 99))
def test_a_map_is_averaged_over_the_parts_of_every_cut(number, seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, number, generator=generator, dtype=torch.float64)
    parts = cluster_parts(unit(number, 4, seed=seed))
    expected = torch.zeros_like(maps)
    for c, n in itertools.product(range(2), range(number)):
        means = [maps[c, cut == cut[n]].mean() for cut in parts]
        expected[c, n] = sum(means) / len(means)
    found = average_over_parts(maps, parts)
    assert_close(found, expected)
    # The mean of the image stays, and nothing leaves the range of the map.
    assert_close(found.mean(1), maps.mean(1))
    assert (found.amin(1) >= maps.amin(1) - 1e-9).all()
    assert (found.amax(1) <= maps.amax(1) + 1e-9).all()


def test_few_patches_are_parts_of_their_own():
    parts = cluster_parts(unit(5, 3))
    assert all(sorted(cut.tolist()) == list(range(5)) for cut in parts)
    maps = torch.rand(1, 5)
    assert_close(average_over_parts(maps, parts), maps)


def slow_area(values, coverage):
    pairs = wins = 0.0
    for (one, inside), (other, share) in itertools.product(
        zip(values, coverage, strict=True), repeat=2
    ):
        weight = inside * (1 - share)
        pairs += weight
        wins += weight * ((one > other) + (one == other) / 2)
    return wins / pairs if pairs else 0.5


shares = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(st.lists(st.tuples(st.integers(0, 4), shares), min_size=1, max_size=20))
def test_the_area_counts_pairs_and_ties_by_halves(patches):
    values, coverage = zip(*patches, strict=True)
    found = area_under_curve(torch.tensor(values).float(), torch.tensor(coverage))
    assert float(found) == pytest.approx(slow_area(values, coverage), abs=1e-6)


@pytest.mark.parametrize(
    ("coverage", "expected"), [([0, 0, 1, 1], 1), ([1, 1, 0, 0], 0), ([0] * 4, 0.5), ([1] * 4, 0.5)]
)
def test_the_area_of_plain_cases(coverage, expected):
    values = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert area_under_curve(values, torch.tensor(coverage).float()) == expected
    flat = torch.full((4,), 0.3)
    assert area_under_curve(flat, torch.tensor(coverage).float()) == 0.5


@pytest.mark.parametrize("share", [0, 0.9, 0.9999])
def test_the_spread_is_that_of_the_cosines_of_all_pairs(share):
    tokens = unit(2, 40, 6)
    shared = torch.full_like(tokens[..., :1], share**0.5)
    tokens = torch.cat([tokens * (1 - share) ** 0.5, shared], dim=-1)
    for part, found in zip(tokens.double(), cosine_spreads(tokens), strict=True):
        cosines = [float(one @ other) for one in part for other in part]
        # 1e-4 is the least that is told.
        assert found == pytest.approx(max(np.std(cosines), 1e-4), rel=1e-2)


def test_patches_that_are_all_the_same_have_a_spread_all_the_same():
    assert cosine_spreads(unit(1, 6).expand(1, 9, 6)).tolist() == [pytest.approx(1e-4)]


log_odds = st.floats(-8, 8)


@given(
    st.lists(st.tuples(st.floats(0, 1), log_odds), min_size=1, max_size=3),
    st.lists(log_odds, min_size=1, max_size=3),
    st.floats(-4, 4),
)
def test_trust_is_the_product_of_what_bears_the_name_out(classes, queries, level):
    agreed, shown = (torch.tensor(values) for values in zip(*classes, strict=True))
    asked = torch.tensor(queries)[:, None] + torch.arange(len(classes))
    found = name_trust(agreed, shown, asked, level)
    assert found.shape == asked.shape
    for b, c in itertools.product(range(len(queries)), range(len(classes))):
        borne_out = [1 / (1 + np.exp(level - float(n))) for n in (shown[c], asked[b, c])]
        assert found[b, c] == pytest.approx(float(agreed[c]) * np.prod(borne_out), abs=1e-5)
    assert (name_trust(torch.zeros_like(agreed), shown, asked, level) == 0).all()
