"""The maps on the patch grid that speak for a class in a query, and how they are weighed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.encoder import Encoding
from piclip.priors import (
    box_mask,
    mean_cosines,
    min_max,
    spread,
    transition_matrix,
    visual_text_prior,
)

EPS = 1e-3

EVIDENCE = ("text", "visual", "dense_text", "discriminant")
"""What is fused, in the order of the fusion's weights."""


@dataclass(frozen=True, eq=False)
class ClassMemory:
    """All that is kept of the supports of one class.

    Attributes:
        name: The class.
        foreground: Text vector of the class, (E,).
        background: Text vector of its absence, (E,).
        last: Object patches of the masked supports after the last block, (K, M, D).
        previous: The same after the second-to-last block.
        valid: Which of the M places hold a patch, bool (K, M).
        direction: Linear discriminant of object against background patches, (2D,).
        offset: Its constant.
        fusion: Weights of the evidence maps and, last, their bias.
    """

    name: str
    foreground: Tensor
    background: Tensor
    last: Tensor
    previous: Tensor
    valid: Tensor
    direction: Tensor
    offset: Tensor
    fusion: Tensor

    @property
    def shots(self) -> int:
        """Number of supports K."""
        return len(self.valid)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All maps of one class in a batch of queries, each float32 (B, h, w) in [0, 1].

    Attributes:
        visual_text: VTP.
        visual_text_refined: VTP after PIR.
        visual_visual: VVP, mean over shots and over the last two blocks, min-max scaled.
        visual_visual_refined: its square after PIR.
        dense_text: probability of the class against its absence, patch by patch.
        discriminant: linear score of object against background, learned from the supports.
    """

    visual_text: Tensor
    visual_text_refined: Tensor
    visual_visual: Tensor
    visual_visual_refined: Tensor
    dense_text: Tensor
    discriminant: Tensor

    def stacked(self) -> Tensor:
        """The maps that are fused, in the order of ``EVIDENCE``, (B, 4, h, w)."""
        fused = (
            self.visual_text_refined,
            self.visual_visual_refined,
            self.dense_text,
            self.discriminant,
        )
        return torch.stack(fused, dim=1)


def gather_evidence(
    encoding: Encoding,
    memories: list[ClassMemory],
    *,
    logit_scale: float,
    contrast: Tensor | None = None,
    transition: Tensor | None = None,
) -> list[Evidence]:
    """Computes the maps of several classes in a batch of encoded queries.

    Args:
        encoding: The queries, B images of one grid.
        memories: The classes.
        logit_scale: Factor on cosines before a softmax over texts.
        contrast: Further texts (X, E) that every class meets in its visual-text prior.
        transition: PIR's matrix of the queries, (B, N, N), where it is there already.

    Returns:
        One ``Evidence`` per class.
    """
    foreground = torch.stack([memory.foreground for memory in memories])
    background = torch.stack([memory.background for memory in memories])
    text = visual_text_prior(
        encoding.last_block,
        foreground,
        background,
        logit_scale=logit_scale,
        grid=encoding.grid,
        contrast=contrast,
    )
    blocks = (encoding.last, encoding.previous)
    similar = [mean_cosines(blocks, (m.last, m.previous), m.valid) for m in memories]
    visual = min_max(torch.stack(similar, dim=1).unflatten(2, encoding.grid))
    # Squaring sharpens the flat map of cosines before it is spread along the attention.
    maps = torch.cat([text, visual**2], dim=1)
    if transition is None:
        transition = transition_matrix(encoding.attention)
    refined = spread(maps * box_mask(maps), transition)
    text_refined, visual_refined = refined.split(len(memories), dim=1)
    dense = _dense_text(encoding, foreground - background, logit_scale)
    features = patch_features(encoding)
    return [
        Evidence(
            text[:, c],
            text_refined[:, c],
            visual[:, c],
            visual_refined[:, c],
            dense[:, c],
            (features @ memory.direction + memory.offset).clamp(0, 1).unflatten(1, encoding.grid),
        )
        for c, memory in enumerate(memories)
    ]


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


def fuse_classes(
    evidence: list[Evidence], memories: list[ClassMemory], transition: Tensor
) -> Tensor:
    """One score per class and patch.

    The fused probability p and what refinement makes of it, R(Rp), are both needed: p knows where
    the object is, refinement knows how far it reaches. Their geometric mean asks for both.

    Args:
        evidence: One per class.
        memories: The classes, with their weights.
        transition: PIR's matrix of the queries, (B, N, N).

    Returns:
        Scores in [0, 1], (B, C, h, w).
    """
    fused = torch.stack(
        [
            fuse(maps.stacked(), memory.fusion)
            for maps, memory in zip(evidence, memories, strict=True)
        ],
        dim=1,
    )
    return (fused * spread(fused, transition)).sqrt()


def patch_features(encoding: Encoding) -> Tensor:
    """Unit vectors of the last two blocks side by side, float32 (B, N, 2D)."""
    normalise = torch.nn.functional.normalize
    parts = (encoding.last.float(), encoding.previous.float())
    return torch.cat([normalise(part, dim=-1) for part in parts], dim=-1)


def _dense_text(encoding: Encoding, directions: Tensor, logit_scale: float) -> Tensor:
    """``sigmoid(s * cos(patch, t_f - t_b))`` with the patch in the texts' space, (B, C, h, w)."""
    head = encoding.last_block.head
    patches = encoding.last
    normed = F.layer_norm(patches, patches.shape[-1:], head.ln_weight, head.ln_bias, head.eps)
    projected = F.normalize((normed @ head.projection.T).float(), dim=-1)
    scores = torch.sigmoid(logit_scale * projected @ directions.T)
    maps: Tensor = scores.transpose(1, 2).unflatten(2, encoding.grid)
    return maps
