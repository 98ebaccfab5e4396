"""What the built-in CLIP is taught: names by captions, likeness of patches by masks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world.scene_batches import Batch
from world.world_model import ATTENTION_BLOCKS, CONTEXT, IMAGE_SIZE, PATCH

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

LOSS_WEIGHTS = {
    "mean": 1.0,
    "cls": 0.3,
    "which": 0.3,
    "caption": 0.1,
    "patch": 1.0,
    "alike": 2.0,
    "affinity": 2.0,
}
SHARPNESS = 10.0
"""Of the kernel around patches; cosines of unlike patches end near 0."""
COMPARED_BLOCKS = 2
"""Last blocks whose patches are made alike: those that VVP compares."""
FOREGROUND = ("a photo of {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}", "{}")
BACKGROUND = ("a photo without {}", "a photo without a {}", "a picture with no {}")


def text_embeddings(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], device: torch.device
) -> Tensor:
    """Normalised embeddings of texts, (T, E)."""
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).to(device)
    pooled = model.text_model(**tokens).pooler_output
    embeddings: Tensor = model.text_projection(pooled)
    return F.normalize(embeddings, dim=-1)


@dataclass(frozen=True)
class Look:
    """What the model sees in B images.

    Attributes:
        projected: tokens of the last block in the shared space, not normalised, (B, 1 + N, E).
        tokens: patches after each of the blocks that are compared, (B, N, D).
        attention: between patches, (B, N, N), sum over the heads, of each of the blocks that
            refinement will read but the last. That one is left out: the visual-text prior takes
            its gradient through its attention and gets worse when the affinity loss sharpens it.
    """

    projected: Tensor
    tokens: list[Tensor]
    attention: list[Tensor]


def look(model: CLIPModel, images: Tensor, window: tuple[int, int]) -> Look:
    """Encodes images.

    Args:
        model: the CLIP.
        images: uint8 (B, H, W, 3).
        window: where the patch grid lies within the full grid of positions.
    """
    vision = model.vision_model
    mean, std = (torch.tensor(v, device=images.device) for v in (CLIP_MEAN, CLIP_STD))
    pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    patches = vision.embeddings.patch_embedding(pixels)
    rows, columns = patches.shape[2:]
    side = IMAGE_SIZE // PATCH
    positions = vision.embeddings.position_embedding.weight
    grid = positions[1:].reshape(side, side, -1)
    row, column = window
    grid = grid[row : row + rows, column : column + columns].flatten(0, 1)
    first = (vision.embeddings.class_embedding + positions[0]).expand(len(images), 1, -1)
    hidden = torch.cat([first, patches.flatten(2).transpose(1, 2) + grid], dim=1)
    hidden = vision.pre_layrnorm(hidden)
    after, maps = [], []
    for layer in vision.encoder.layers:
        hidden, between_patches = _layer_with_attention(layer, hidden)
        after.append(hidden[:, 1:].float())
        maps.append(between_patches)
    projected = model.visual_projection(vision.post_layernorm(hidden)).float()
    return Look(projected, after[-COMPARED_BLOCKS:], maps[-ATTENTION_BLOCKS:-1])


def _layer_with_attention(layer: CLIPEncoderLayer, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """One block, and the sum over its heads of the attention between patches, (B, N, N)."""
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden)
    query, key, value = (
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weights = torch.softmax(query @ key.transpose(-1, -2) * attention.scale, dim=-1)
    hidden = hidden + attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return hidden, weights[:, :, 1:, 1:].sum(dim=1)


def training_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, batch: Batch, rng: random.Random
) -> tuple[Tensor, dict[str, float]]:
    """The objective of one batch and its parts.

    Names are learned from captions: a class is called present by
    ``scale * (cos(v, "a photo of c") - cos(v, "a photo without c"))`` with v the CLS token or the
    mean of the patches; from masks, with v a patch. Patches are made alike by masks as well.
    """
    words, whole = batch.words, slice(batch.whole)
    prompts = [rng.choice(FOREGROUND).format(name) for name in CLASS_NAMES]
    prompts += [rng.choice(BACKGROUND).format(name) for name in CLASS_NAMES]
    with torch.autocast(words.device.type, torch.bfloat16):
        text = text_embeddings(model, tokenizer, prompts, words.device).float()
        seen = look(model, batch.images, batch.window)
    present, absent = text.chunk(2)
    scale = model.logit_scale.exp().clamp(max=100)

    def presence(vectors: Tensor) -> Tensor:
        logits: Tensor = scale * F.normalize(vectors, dim=-1) @ (present - absent).T
        return logits

    patches, mean = seen.projected[:, 1:], seen.projected[:, 1:].mean(dim=1)
    by_patch = presence(patches)
    parts = {
        "mean": _presence_loss(presence(mean), words),
        "cls": _presence_loss(presence(seen.projected[:, 0]), words),
        "which": _which_loss(scale * F.normalize(mean, dim=-1) @ present.T, words),
        "caption": _contrastive_loss(model, tokenizer, seen.projected[:, 0], words, scale),
        "patch": _patch_loss(by_patch, batch.coverage),
        "alike": torch.stack([_alike(tokens, batch) for tokens in seen.tokens]).mean(),
        "affinity": torch.stack(
            [affinity_loss(maps[whole], batch.coverage[whole]) for maps in seen.attention]
        ).mean(),
    }
    loss = torch.stack([LOSS_WEIGHTS[name] * part for name, part in parts.items()]).sum()
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def _alike(tokens: Tensor, batch: Batch) -> Tensor:
    """The loss of `alike_loss` on the patches that were chosen of tokens (B, N, D)."""
    chosen = batch.chosen[..., None]
    picked = tokens.gather(1, chosen.expand(-1, -1, tokens.shape[-1])).flatten(0, 1)
    labels = batch.coverage.gather(1, chosen.expand(-1, -1, batch.coverage.shape[-1]))
    owner = torch.arange(len(tokens), device=tokens.device).repeat_interleave(chosen.shape[1])
    return alike_loss(picked, labels.flatten(0, 1), owner)


def alike_loss(tokens: Tensor, labels: Tensor, owner: Tensor) -> Tensor:
    """Asks patches to lie near those of their own class in other images, and far from all else.

    The contrast prior for all classes at once: the density of each kind at a patch is a kernel
    density estimate on the unit sphere over the patches of *other* images, and the cross entropy
    is that of the kinds' shares of the patch.

    Args:
        tokens: (M, D).
        labels: share of each of them that is ground and each class, (M, 1 + C).
        owner: number of the image that each is from, (M,).
    """
    directions = F.normalize(tokens, dim=-1)
    others = (owner[:, None] != owner).float()
    kernel = torch.exp(SHARPNESS * (directions @ directions.T - 1)) * others
    mass = others @ labels
    logits = (kernel @ labels + 1e-12).log() - mass.clamp_min(1e-6).log()
    logits = logits.masked_fill(mass == 0, -1e4)
    chances = logits.log_softmax(dim=-1).masked_fill(mass == 0, 0.0)
    return -(labels * chances).sum(dim=-1).mean()


def affinity_loss(attention: Tensor, coverage: Tensor) -> Tensor:
    """Asks patches to attend to patches that show the same.

    Without it the late blocks' attention collects in a few patches, and refinement, which spreads
    a map along it, blurs instead of completing: ``-log sum_j A_ij p_i . p_j`` with the rows of A
    scaled to sum to one, patches of objects and of ground counting equally.

    Args:
        attention: of one block, (B, N, N).
        coverage: share of each patch that is ground and each class, (B, N, 1 + C).
    """
    same = (coverage @ coverage.mT).to(attention.dtype)
    alike = (attention * same).sum(dim=-1).float() / attention.sum(dim=-1).float()
    return _balanced(-torch.log(alike + 1e-4), coverage[..., 0])


def _patch_loss(logits: Tensor, coverage: Tensor) -> Tensor:
    """Cross entropy of what each patch shows, where the presence of no class says ground.

    Args:
        logits: presence of each class, (B, N, C).
        coverage: share of each patch that is ground and each class, (B, N, 1 + C).
    """
    kinds = F.pad(logits, (1, 0)).log_softmax(dim=-1)
    return _balanced(-(coverage * kinds).sum(dim=-1), coverage[..., 0])


def _balanced(loss: Tensor, ground: Tensor) -> Tensor:
    """The mean of a loss of patches, those of objects and those of ground counting equally."""
    things = 1 - ground
    return ((loss * ground).sum() / ground.sum() + (loss * things).sum() / things.sum()) / 2


def _presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid loss, summed over the classes so that one wrong class of twenty still counts."""
    loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return loss.sum(dim=-1).mean() / 3


def _which_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy against all classes that the caption names, in equal parts."""
    share = labels.float() / labels.sum(dim=-1, keepdim=True).clamp_min(1)
    return F.cross_entropy(logits, share)


def _contrastive_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, labels: Tensor, scale: Tensor
) -> Tensor:
    """Whole captions against whole images; a caption is right for every image it is true of."""
    shown = labels.any(dim=1)
    images, labels = images[shown], labels[shown]
    sets = torch.unique(labels, dim=0)
    captions = [
        "a photo of " + " and ".join(CLASS_NAMES[k] for k in row.nonzero().flatten().tolist())
        for row in sets
    ]
    text = text_embeddings(model, tokenizer, captions, images.device)
    logits = scale * F.normalize(images, dim=-1) @ text.T  # (B, S)
    true = (sets[None] & ~labels[:, None]).sum(-1) == 0
    share = true.float() / true.sum(1, keepdim=True)
    return F.cross_entropy(logits, share)
