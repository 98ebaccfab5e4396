"""The contrast prior against its plain formula, and what it must not depend on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from piclip.errors import UsageError
from piclip.priors import contrast_prior


def slow(query, support, coverage, sharpness, counted=None):
    """The equation, patch by patch, in Python's own numbers."""
    result = torch.zeros(len(query), len(coverage), query.shape[1], dtype=torch.float64)
    for b, image in enumerate(query.double()):
        for n, q in enumerate(image):
            cosines = [float(q @ s / (q.norm() * s.norm())) for s in support.double()]
            for c, shares in enumerate(coverage.double().tolist()):
                sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
                for m, share in enumerate(shares):
                    weight = 1.0 if counted is None else float(counted[c, m])
                    for inside, part in ((True, share), (False, 1 - share)):
                        sums[inside][0] += weight * part * math.exp(sharpness * cosines[m])
                        sums[inside][1] += weight * part
                (of, all_of), (other, all_other) = sums[True], sums[False]
                if all_of and all_other:
                    result[b, c, n] = math.log(of / all_of) - math.log(other / all_other)
    return result


def example(seed=0, images=2, patches=5, shown=7, classes=3, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    coverage = torch.rand(classes, shown, generator=generator, dtype=torch.float64)
    return normal(images, patches, width), normal(shown, width), coverage


@given(
    seed=st.integers(0, 99),
    shown=st.integers(1, 9),
    classes=st.integers(1, 3),
    sharpness=st.floats(0.1, 60),
)
def test_it_equals_the_plain_formula(seed, shown, classes, sharpness):
    query, support, coverage = example(seed, shown=shown, classes=classes)
    ours = contrast_prior(query, support, coverage, sharpness=sharpness)
    assert ours.shape == (2, classes, 5)
    assert_close(ours, slow(query, support, coverage, sharpness), atol=1e-8, rtol=1e-8)


def test_patches_that_do_not_count_are_as_good_as_absent():
    query, support, coverage = example()
    counted = torch.ones_like(coverage)
    counted[:, 4:] = 0
    ours = contrast_prior(query, support, coverage, sharpness=5, counted=counted)
    assert_close(ours, contrast_prior(query, support[:4], coverage[:, :4], sharpness=5))
    counted = torch.rand_like(coverage)
    ours = contrast_prior(query, support, coverage, sharpness=5, counted=counted)
    assert_close(ours, slow(query, support, coverage, 5, counted))


def test_classes_and_images_do_not_meet():
    query, support, coverage = example()
    together = contrast_prior(query, support, coverage, sharpness=8)
    for b in range(len(query)):
        for c in range(len(coverage)):
            alone = contrast_prior(query[b : b + 1], support, coverage[c : c + 1], sharpness=8)
            assert_close(alone[0, 0], together[b, c])


def test_many_support_patches_are_one_sum():
    # More than are compared at once, and not a multiple of it.
    query, support, coverage = example(images=1, patches=3, shown=4500, classes=2, width=4)
    tau = 7.0
    logits = tau * normalize(query[0], dim=-1) @ normalize(support, dim=-1).mT
    inside = (logits + coverage[:, None].log()).logsumexp(-1) - coverage.sum(1)[:, None].log()
    free = 1 - coverage
    outside = (logits + free[:, None].log()).logsumexp(-1) - free.sum(1)[:, None].log()
    assert_close(contrast_prior(query, support, coverage, sharpness=tau)[0], inside - outside)


@given(seed=st.integers(0, 99), share=st.floats(0, 0.97))
def test_a_shift_of_all_cosines_changes_nothing(seed, share):
    # A direction of their own in all unit vectors: every cosine becomes (1 - share) cos + share,
    # so that only the spread, which the sharpness is measured in, is another.
    query, support, coverage = example(seed)

    def mixed(tokens):
        shared = torch.full_like(tokens[..., :1], share**0.5)
        return torch.cat([normalize(tokens, dim=-1) * (1 - share) ** 0.5, shared], dim=-1)

    plain = contrast_prior(query, support, coverage, sharpness=4)
    narrow = contrast_prior(mixed(query), mixed(support), coverage, sharpness=4 / (1 - share))
    assert_close(plain, narrow, atol=1e-7, rtol=1e-7)


def test_the_length_of_tokens_does_not_matter():
    query, support, coverage = example()
    plain = contrast_prior(query, support, coverage, sharpness=4)
    lengths = torch.rand(len(support), 1).double() + 0.5
    assert_close(contrast_prior(3 * query, support * lengths, coverage, sharpness=4), plain)


@given(seed=st.integers(0, 99))
def test_object_and_background_in_each_others_place_change_the_sign(seed):
    query, support, coverage = example(seed)
    plain = contrast_prior(query, support, coverage, sharpness=4)
    assert_close(contrast_prior(query, support, 1 - coverage, sharpness=4), -plain)


def test_a_class_without_object_or_background_gives_zero():
    query, support, coverage = example()
    coverage[0], coverage[1] = 0, 1
    found = contrast_prior(query, support, coverage, sharpness=5)
    assert found[:, :2].abs().max() == 0 and found[:, 2].abs().min() > 0
    none = contrast_prior(query, support, coverage, sharpness=5, counted=torch.zeros_like(coverage))
    assert none.abs().max() == 0


@pytest.mark.parametrize("sharpness", [100, 2000, 1e6])
def test_a_kernel_of_any_sharpness_is_right(sharpness):
    query, support, coverage = example(shown=2500, classes=3)
    coverage[0] = 0  # nothing to compare
    coverage[1] = (coverage[1] > 0.5).double()
    found = contrast_prior(query, support, coverage, sharpness=sharpness)
    logits = sharpness * normalize(query, dim=-1) @ normalize(support, dim=-1).mT
    densities = [
        (logits[:, None] + share[:, None].log()).logsumexp(-1) - share.sum(1)[:, None].log()
        for share in (coverage, 1 - coverage)
    ]
    assert_close(found[:, 1:], (densities[0] - densities[1])[:, 1:])
    assert found[:, 0].abs().max() == 0 and found[:, 1:].abs().min() > 0


def test_a_kernel_of_any_sharpness_stays_finite():
    query, support, coverage = example(dtype=torch.float32)
    found = contrast_prior(query, support, coverage, sharpness=1e6)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [
        (torch.float16, torch.float32, 2e-2),
        (torch.bfloat16, torch.float32, 0.2),
        (torch.float32, torch.float32, 1e-4),
        (torch.float64, torch.float64, 1e-9),
    ],
    ids=str,
)
def test_it_is_computed_in_float32_at_least(dtype, expected, tolerance):
    query, support, coverage = example()
    found = contrast_prior(query.to(dtype), support.to(dtype), coverage, sharpness=5)
    assert found.dtype == expected
    assert (found - slow(query, support, coverage, 5)).abs().max() < tolerance
    # Not more is lost than by rounding the tokens.
    rounded = slow(query.to(dtype), support.to(dtype), coverage, 5)
    assert (found - rounded).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("query", "support", "coverage", "counted", "named"),
    [
        ((5, 6), (7, 6), (1, 7), None, r"\(5, 6\) and \(7, 6\)"),
        ((1, 5, 6), (7, 4), (1, 7), None, r"\(1, 5, 6\) and \(7, 4\)"),
        ((1, 5, 6), (1, 7, 6), (1, 7), None, r"\(1, 5, 6\) and \(1, 7, 6\)"),
        ((1, 5, 6), (7, 6), (1, 8), None, r"coverage \(C, 7\).*\(1, 8\)"),
        ((1, 5, 6), (7, 6), (7,), None, r"coverage \(C, 7\).*\(7,\)"),
        ((1, 5, 6), (7, 6), (2, 7), (1, 7), r"\(2, 7\) and \(1, 7\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(query, support, coverage, counted, named):
    counted = None if counted is None else torch.rand(counted)
    with pytest.raises(UsageError, match=named):
        contrast_prior(
            torch.rand(query),
            torch.rand(support),
            torch.rand(coverage),
            sharpness=1,
            counted=counted,
        )


@pytest.mark.parametrize("sharpness", [0, -1, math.nan])
def test_a_sharpness_that_is_not_above_zero_is_refused(sharpness):
    query, support, coverage = example()
    with pytest.raises(UsageError, match="sharpness must be above 0"):
        contrast_prior(query, support, coverage, sharpness=sharpness)


def test_a_bool_mask_is_a_coverage():
    query, support, coverage = example()
    mask = coverage > 0.5
    ours = contrast_prior(query, support, mask, sharpness=5.0, counted=mask | ~mask)
    assert_close(ours, slow(query, support, mask, 5.0))
