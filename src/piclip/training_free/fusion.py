"""Weighing the evidence: a logistic model that the supports' own masks adjust."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_STEPS = 8
EPS = 1e-3


def evidence_logits(evidence: Tensor) -> Tensor:
    """Maps in [0, 1] as log-odds, so that their weights add up like independent votes.

    Args:
        evidence: (..., M, h, w) in [0, 1].

    Returns:
        Of the same shape, within +-7.
    """
    return torch.logit(evidence.clamp(EPS, 1 - EPS))


def fuse(evidence: Tensor, weights: Tensor) -> Tensor:
    """Probability of the class at each patch.

    Args:
        evidence: (B, M, h, w) in [0, 1].
        weights: One weight per map and, last, the bias, (M + 1,).

    Returns:
        (B, h, w) in [0, 1].
    """
    logits = torch.einsum("bmhw,m->bhw", evidence_logits(evidence), weights[:-1]) + weights[-1]
    return torch.sigmoid(logits)


def with_bias(inputs: Tensor) -> Tensor:
    """Inputs (P, M) with a last column of ones, (P, M + 1)."""
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)


def calibrate(evidence: Tensor, coverage: Tensor, default: Tensor, strength: float) -> Tensor:
    """Adjusts the weights to images whose masks are known.

    Maximum a posteriori logistic regression by Newton's method: the patches' coverage is the
    target, object and background count equally, and a Gaussian prior of precision ``strength``
    (in units of one image) keeps the weights near the default.

    Args:
        evidence: Maps of the supports, each made without looking at its own mask, (K, M, h, w).
        coverage: Share of each patch that is object, (K, h, w).
        default: Weights and bias to start from, (M + 1,).
        strength: How firmly to hold on to the default; 0 or more.

    Returns:
        Weights and bias, (M + 1,).
    """
    inputs = evidence_logits(evidence).double().movedim(1, -1).flatten(0, -2)  # (P, M)
    inputs = with_bias(inputs)
    target = coverage.double().flatten()
    share = target.mean().clamp(1e-3, 1 - 1e-3)
    importance = target / share + (1 - target) / (1 - share)
    importance = importance / importance.sum() * len(coverage)
    weights = logistic_regression(inputs, target, importance, default.double(), strength)
    return weights.to(default.dtype)


def logistic_regression(
    inputs: Tensor,
    target: Tensor,
    importance: Tensor,
    start: Tensor,
    strength: float,
    *,
    steps: int = NEWTON_STEPS,
) -> Tensor:
    """Logistic regression by Newton's method, held near where it starts.

    Minimises ``sum_p i_p BCE(sigmoid(x_p . w), y_p) + strength / 2 |w - start|^2``.

    Args:
        inputs: x, float64 (P, M).
        target: y in [0, 1], (P,).
        importance: i, (P,).
        start: Weights to start from, (M,).
        strength: How firmly to hold on to the start; 0 or more.
        steps: Newton steps.

    Returns:
        Weights w, (M,).
    """
    weights = start
    identity = torch.eye(len(weights), dtype=inputs.dtype, device=inputs.device)
    for _ in range(steps):
        probability = torch.sigmoid(inputs @ weights)
        gradient = inputs.T @ (importance * (probability - target)) + strength * (weights - start)
        curvature = importance * probability * (1 - probability)
        # The small constant lets inputs that depend on each other be solved for without a prior.
        hessian = (inputs * curvature[:, None]).T @ inputs + (strength + 1e-6) * identity
        weights = weights - torch.linalg.solve(hessian, gradient)
    return weights
