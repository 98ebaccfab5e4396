"""What the built-in CLIP is taught: the losses on captioned images."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.glyphs import CLASS_NAMES
from piclip.training.captioned_batches import Batch
from piclip.training.world_model import ATTENTION_BLOCKS, CONTEXT, IMAGE_SIZE, PATCH

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.modeling_clip import CLIPEncoderLayer

LOSS_WEIGHTS = {
    "mean": 1.0,
    "top": 1.0,
    "cls": 0.3,
    "whole": 0.3,
    "which": 0.3,
    "caption": 0.1,
    "affinity": 2.0,
}
TOP_SHARE = 0.08
SHARPEN = 2.0
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


def image_tokens(
    model: CLIPModel, images: Tensor, window: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Projected tokens of the last block, not normalised, (B, 1 + N, E), and PIR's attention.

    The attention is that between patches, (B, N, N): mean over the heads of the blocks that
    refinement will read, rows scaled to sum to one.

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
    layers = vision.encoder.layers
    for layer in layers[:-ATTENTION_BLOCKS]:
        hidden = layer(hidden, None)
    attention = torch.zeros((), device=images.device)
    for layer in layers[-ATTENTION_BLOCKS:]:
        hidden, between_patches = _layer_with_attention(layer, hidden)
        attention = attention + between_patches
    projected: Tensor = model.visual_projection(vision.post_layernorm(hidden))
    return projected, attention / attention.sum(dim=-1, keepdim=True)


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


def caption_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, batch: Batch, rng: random.Random
) -> tuple[Tensor, dict[str, float]]:
    """The objective of one batch and its parts.

    A class is called present by ``scale * (cos(v, "a photo of c") - cos(v, "a photo without c"))``
    with v the CLS token, the mean of the patches (of a cell), or the best few patches (of a cell).
    """
    words = batch.words
    prompts = [rng.choice(FOREGROUND).format(name) for name in CLASS_NAMES]
    prompts += [rng.choice(BACKGROUND).format(name) for name in CLASS_NAMES]
    text = text_embeddings(model, tokenizer, prompts, words.device)
    present, absent = text.chunk(2)
    scale = model.logit_scale.exp().clamp(max=100)
    tokens, attention = image_tokens(model, batch.images, batch.window)
    whole = words.any(dim=1)

    def presence(vectors: Tensor) -> Tensor:
        logits: Tensor = scale * F.normalize(vectors, dim=-1) @ (present - absent).T
        return logits

    cells = _cells(tokens[:, 1:])  # (B, 4, N / 4, E)
    single = len(tokens) // 2
    means = cells.mean(dim=2)  # (B, 4, E)
    patch_logits = presence(cells)  # (B, 4, N / 4, 20)
    regions = torch.cat([means[:single].mean(1), means[single:].flatten(0, 1)])
    labels = torch.cat([whole[:single], words[single:].flatten(0, 1)])
    top_single = patch_logits[:single].flatten(1, 2)
    top = torch.cat([_best(top_single), _best(patch_logits[single:].flatten(0, 1))])
    parts = {
        "mean": _presence_loss(presence(regions), labels),
        "top": _presence_loss(top, labels),
        "cls": _presence_loss(presence(tokens[:, 0]), whole),
        "whole": _presence_loss(presence(means[single:].mean(1)), whole[single:]),
        "which": _which_loss(scale * F.normalize(regions, dim=-1) @ present.T, labels),
        "caption": _contrastive_loss(model, tokenizer, tokens[:single, 0], whole[:single], scale),
        "affinity": _affinity_loss(attention, patch_logits.detach(), words),
    }
    loss = torch.stack([LOSS_WEIGHTS[name] * part for name, part in parts.items()]).sum()
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def _cells(patches: Tensor) -> Tensor:
    """The patches of the four quarters of each image, (B, 4, N / 4, E)."""
    count, number, width = patches.shape
    half = int(number**0.5) // 2
    grid = patches.reshape(count, 2, half, 2, half, width)
    return grid.transpose(2, 3).reshape(count, 4, half * half, width)


def _affinity_loss(attention: Tensor, patch_logits: Tensor, words: Tensor) -> Tensor:
    """Asks patches to attend to patches that the model itself gives the same class.

    Without it the late blocks' attention collects in a few patches, and refinement, which spreads
    a map along it, blurs instead of completing. The classes are the model's own guess among those
    that the cell's caption names, so no mask is needed: ``-log sum_j A_ij p_i . p_j``, patches that
    look like objects and patches that look like ground counting equally.

    Args:
        attention: (B, N, N), rows sum to one.
        patch_logits: presence of each class, patches in the order of ``_cells``, (B, 4, N / 4, C).
        words: classes that each cell's caption names, bool (B, 4, C).
    """
    number = attention.shape[1]
    order = _cells(torch.arange(number, device=attention.device).view(1, number, 1)).flatten()
    attention = attention[:, order][:, :, order]
    named = patch_logits.masked_fill(~words[:, :, None], -torch.inf)
    ground = torch.zeros_like(named[..., :1])
    guess = (SHARPEN * torch.cat([ground, named], dim=-1)).softmax(dim=-1).flatten(1, 2)
    alike = (attention * (guess @ guess.transpose(1, 2))).sum(dim=-1)
    loss = -torch.log(alike + 1e-4)
    thing = 1 - guess[..., 0]
    return ((loss * thing).sum() / thing.sum() + (loss * guess[..., 0]).mean()) / 2


def _best(logits: Tensor) -> Tensor:
    """Mean of the highest few patches of each class, (R, N, C) to (R, C)."""
    keep = max(2, round(TOP_SHARE * logits.shape[1]))
    return logits.topk(keep, dim=1).values.mean(dim=1)


def _presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid loss, summed over the classes so that one wrong class of twenty still counts."""
    loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return loss.sum(dim=-1).mean() / 3


def _which_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy against all classes that the caption names, in equal parts."""
    share = labels.float() / labels.sum(dim=-1, keepdim=True)
    return F.cross_entropy(logits, share)


def _contrastive_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, labels: Tensor, scale: Tensor
) -> Tensor:
    """Whole captions against whole images; a caption is right for every image it is true of."""
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
