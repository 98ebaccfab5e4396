"""PIR against the published code's outputs and against the formulas written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from piclip.errors import UsageError
from piclip.priors import box_mask, min_max, refine_prior, spread, transition_matrix

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "priors_upstream.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files if key.endswith("/trans_mat")})
BOXES = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("bbox/")})
EMPTY = "s4_96x128_emptymask"


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[key])


def random_attention(seed: int, patches: int, images: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, patches, patches, generator=generator).mul(3).softmax(-1)


def test_the_golden_file_has_all_cases():
    assert len(CASES) == 5
    assert EMPTY in CASES
    assert len(BOXES) == 8


@pytest.mark.parametrize("case", CASES)
def test_transition_matrix_is_the_published_one(case):
    ours = transition_matrix(golden(f"{case}/attn_mean_last8")[None])[0]
    # The published array is R after the squaring that `refine_prior` never forms.
    torch.testing.assert_close(ours @ ours, golden(f"{case}/trans_mat"), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_refined_map_is_the_published_one(case):
    cam = golden(f"{case}/grayscale_cam")
    attention = golden(f"{case}/attn_mean_last8")[None]
    ours = refine_prior(cam[None, None], attention, box_clamp="reference")[0, 0]
    published = golden(f"{case}/cam_refined")
    torch.testing.assert_close(ours, min_max(published), atol=1e-4, rtol=0)
    mask = box_mask(cam[None, None], box_clamp="reference")[0, 0]
    transition = transition_matrix(attention)[0]
    raw = transition @ (transition @ (mask * cam).flatten())
    torch.testing.assert_close(raw.view_as(cam), published, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_box_mask_of_the_cases_is_the_published_one(case):
    cam = golden(f"{case}/grayscale_cam")[None, None]
    published = golden(f"{case}/aff_mask").bool()
    assert torch.equal(box_mask(cam, box_clamp="reference")[0, 0], published)


@pytest.mark.parametrize("name", BOXES)
def test_box_mask_alone_is_the_published_one(name):
    scores = golden(f"bbox/{name}/map")[None, None]
    published = golden(f"bbox/{name}/mask").bool()
    assert torch.equal(box_mask(scores, box_clamp="reference")[0, 0], published)


def test_cover_keeps_what_the_published_clamp_loses():
    cam = golden(f"{EMPTY}/grayscale_cam")[None, None]
    attention = golden(f"{EMPTY}/attn_mean_last8")[None]
    assert not box_mask(cam, box_clamp="reference").any()
    assert not refine_prior(cam, attention, box_clamp="reference").any()
    # The component of this case lies in the last row, columns 4 to 7.
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[5, 4:8] = True
    assert torch.equal(box_mask(cam)[0, 0], expected)
    assert refine_prior(cam, attention).max() == pytest.approx(1, abs=1e-4)

    last_column = golden("bbox/lastcol/map")[None, None]
    assert not box_mask(last_column, box_clamp="reference").any()
    assert box_mask(last_column)[0, 0, :, -1].any()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 9), width=st.integers(2, 9))
def test_cover_holds_every_strong_patch_and_all_of_the_published_mask(seed, height, width):
    scores = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(seed))
    levels = (scores * 255).int()
    strong = levels > (levels.amax((-2, -1), keepdim=True) * 0.4).int()
    cover = box_mask(scores)
    assert (cover | ~strong).all()
    assert (cover | ~box_mask(scores, box_clamp="reference")).all()
    lost = cover & ~box_mask(scores, box_clamp="reference")
    assert not lost[..., :-1, :-1].any()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    images=st.integers(1, 3),
    classes=st.integers(1, 4),
)
def test_refinement_is_the_formula_for_each_image_and_class(seed, height, width, images, classes):
    patches = height * width
    attention = random_attention(seed, patches, images).double()
    prior = torch.rand(
        images, classes, height, width, generator=torch.Generator().manual_seed(seed)
    )
    ours = refine_prior(prior.double(), attention)
    for b in range(images):
        step = attention[b] / attention[b].sum(0, keepdim=True)
        step = step / step.sum(1, keepdim=True)
        once = torch.maximum(step, step @ step.T)
        for c in range(classes):
            boxed = (prior[b, c] * box_mask(prior[b : b + 1, c : c + 1])[0, 0]).double()
            refined = ((once @ once) @ boxed.flatten()).view(height, width)
            torch.testing.assert_close(ours[b, c], min_max(refined), atol=1e-9, rtol=0)


def test_without_boxes_the_whole_map_is_spread():
    attention = random_attention(0, 12)
    prior = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    transition = transition_matrix(attention)[0]
    refined = transition @ transition @ prior.flatten()
    ours = refine_prior(prior, attention, boxes=False)[0, 0]
    torch.testing.assert_close(ours, min_max(refined.view(3, 4)), atol=1e-6, rtol=0)


def test_half_precision_attention_is_refined_in_float32():
    attention = random_attention(3, 30)
    prior = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(2))
    ours = refine_prior(prior, attention.half())
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, refine_prior(prior, attention), atol=5e-3, rtol=0)


def test_a_patch_that_nobody_looks_at_gives_no_nan():
    attention = torch.full((1, 4, 4), 1 / 3)
    attention[..., 2] = 0
    assert transition_matrix(attention).isfinite().all()


def test_wrong_requests_are_refused():
    prior, attention = torch.rand(1, 1, 3, 4), random_attention(0, 12)
    with pytest.raises(UsageError, match="attention of shape"):
        refine_prior(prior, attention[:, :11, :11])
    for maps in (prior[0], prior[0, 0, 0], torch.tensor(1.0)):
        with pytest.raises(UsageError, match=r"Maps \(B, C, h, w\) need attention"):
            refine_prior(maps, attention)
        with pytest.raises(UsageError, match=r"Maps \(B, C, h, w\) need a transition matrix"):
            spread(maps, attention)
        with pytest.raises(UsageError, match=r"maps \(B, C, h, w\) of values from 0 to 1"):
            box_mask(maps)
    for value in (-0.01, 1.01, math.nan):
        with pytest.raises(UsageError, match="values from 0 to 1"):
            box_mask(torch.full_like(prior, value))
    for threshold in (-0.1, 1, math.nan):
        with pytest.raises(UsageError, match="a threshold of at least 0"):
            box_mask(prior, threshold=threshold)
    for wrong in (attention[0], attention[:, :5], attention[None]):
        with pytest.raises(UsageError, match=r"must be \(B, N, N\)"):
            transition_matrix(wrong)
    with pytest.raises(UsageError, match="box_clamp"):
        box_mask(prior, box_clamp="other")  # type: ignore[arg-type]
