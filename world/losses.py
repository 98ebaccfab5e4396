"""What the built-in CLIP is taught: the losses on captioned images."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from world.affinity import affinity_loss, cells, guess_classes, patches
from world.captioned_batches import Batch
from world.world_model import ATTENTION_BLOCKS, CONTEXT, IMAGE_SIZE, PATCH

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
    "silence": 0.3,
}
TOP_SHARE = 0.08
SILENT_SHARE = {"scene": 0.6, "cell": 0.3}
"""Part of an image, or of a mosaic's cell, that no class of it fills: objects are smaller."""
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

    The attention is that between patches, (B, M, N, N): mean over the heads of each of the M
    blocks that refinement will read, rows scaled to sum to one.

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
    maps = []
    for layer in layers[-ATTENTION_BLOCKS:]:
        hidden, between_patches = _layer_with_attention(layer, hidden)
        maps.append(between_patches)
    attention = torch.stack(maps, dim=1)
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

    quarters = cells(tokens[:, 1:], batch.roll)  # (B, 4, N / 4, E)
    single = len(tokens) // 2
    means = quarters.mean(dim=2)  # (B, 4, E)
    patch_logits = presence(quarters)  # (B, 4, N / 4, 20)
    regions = torch.cat([means[:single].mean(1), means[single:].flatten(0, 1)])
    labels = torch.cat([whole[:single], words[single:].flatten(0, 1)])
    in_scenes, in_cells = patch_logits[:single].flatten(1, 2), patch_logits[single:].flatten(0, 1)
    parts = {
        "mean": _presence_loss(presence(regions), labels),
        "top": _presence_loss(torch.cat([_best(in_scenes), _best(in_cells)]), labels),
        "cls": _presence_loss(presence(tokens[:, 0]), whole),
        "whole": _presence_loss(presence(means[single:].mean(1)), whole[single:]),
        "which": _which_loss(scale * F.normalize(regions, dim=-1) @ present.T, labels),
        "caption": _contrastive_loss(model, tokenizer, tokens[:single, 0], whole[:single], scale),
        "silence": _silence_loss(in_scenes, whole[:single], SILENT_SHARE["scene"])
        + _silence_loss(in_cells, words[single:].flatten(0, 1), SILENT_SHARE["cell"]),
    }
    weights = dict(LOSS_WEIGHTS)
    if batch.affinity:
        parts["affinity"] = _affinity(batch, patch_logits.detach(), attention)
        weights["affinity"] = batch.affinity
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def _affinity(batch: Batch, patch_logits: Tensor, attention: Tensor) -> Tensor:
    """The affinity loss against the model's own guess among the classes that captions name.

    The last block is left out: the visual-text prior takes its gradient through that block's
    attention and gets worse when this loss sharpens it.
    """
    named = batch.words[:, :, None].expand_as(patch_logits)
    with torch.no_grad():
        guess = guess_classes(
            batch.images,
            attention.mean(dim=1),
            patches(patch_logits.sigmoid(), batch.roll),
            patches(named, batch.roll),
        )
    return affinity_loss(attention[:, :-1], guess)


def _silence_loss(logits: Tensor, named: Tensor, share: float) -> Tensor:
    """Asks the patches that speak least for a class that is there to call it absent.

    Without it the ground of an image learns to carry the image's classes too, because the mean of
    all patches is asked for them, and a map of the patches no longer shows where the object is.

    Args:
        logits: presence of each class, (R, N, C).
        named: classes that the region's caption names, bool (R, C).
        share: part of the patches, in (0, 1).
    """
    keep = round(share * logits.shape[1])
    lowest = logits.topk(keep, dim=1, largest=False).values  # (R, keep, C)
    loss: Tensor = F.softplus(lowest).mean(dim=1)
    return (loss * named).sum() / named.sum()


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
