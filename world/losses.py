"""What the built-in CLIP is taught: names by captions, likeness of patches by its own guess."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.settings import CLIP_MEAN, CLIP_STD
from piclip.datasets.scenes.glyphs import CLASS_NAMES
from piclip.priors import transition_matrix
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
    "alike": 2.0,
    "affinity": 2.0,
}
TOP_SHARE = 0.08
SILENT_SHARE = {"scene": 0.6, "cell": 0.3}
"""Part of an image, or of a mosaic's cell, that no class of it fills: objects are smaller."""
SHARPEN, GROUND_SCORE = 20.0, 0.6
"""A class must reach this share of its best score in the image to win a patch from the ground."""
ALONE = 4
"""One in so many images is seen once more with one class left and all else masked."""
CHOSEN = 16
"""Patches of an image that are compared with those of others."""
SHARPNESS = 10.0
"""Of the kernel around patches; cosines of unlike patches end near 0."""
COMPARED_BLOCKS = 3
"""Last blocks whose patches are made alike: those that VVP and the contrast prior compare."""
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

    A class is called present by ``scale * (cos(v, "a photo of c") - cos(v, "a photo without c"))``
    with v the CLS token, the mean of the patches (of a cell), or the best few patches (of a cell).
    """
    words = batch.words
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

    whole, single = words.any(dim=1), len(words) // 2
    cls, quarters = seen.projected[:, 0], cells(seen.projected[:, 1:], batch.roll)
    means = quarters.mean(dim=2)  # (B, 4, E)
    by_patch = presence(quarters)  # (B, 4, N / 4, C)
    regions = torch.cat([means[:single].mean(1), means[single:].flatten(0, 1)])
    labels = torch.cat([whole[:single], words[single:].flatten(0, 1)])
    in_scenes, in_cells = by_patch[:single].flatten(1, 2), by_patch[single:].flatten(0, 1)
    parts = {
        "mean": _presence_loss(presence(regions), labels),
        "top": _presence_loss(torch.cat([_best(in_scenes), _best(in_cells)]), labels),
        "cls": _presence_loss(presence(cls), whole),
        "whole": _presence_loss(presence(means[single:].mean(1)), whole[single:]),
        "which": _which_loss(scale * F.normalize(regions, dim=-1) @ present.T, labels),
        "caption": _contrastive_loss(model, tokenizer, cls[:single], whole[:single], scale),
        "silence": _silence_loss(in_scenes, whole[:single], SILENT_SHARE["scene"])
        + _silence_loss(in_cells, words[single:].flatten(0, 1), SILENT_SHARE["cell"]),
    }
    if batch.guess:
        named = words[:, :, None].expand_as(by_patch)
        guess = guess_classes(
            torch.stack(seen.attention).mean(dim=0).detach(),
            patches(by_patch.detach().sigmoid(), batch.roll),
            patches(named, batch.roll),
        )
        parts |= _own_guess_losses(model, batch, seen, guess, rng)
    loss = torch.zeros((), device=words.device)
    for name, part in parts.items():
        loss = loss + LOSS_WEIGHTS[name] * part
    return loss, {name: float(part.detach()) for name, part in parts.items()}


def cells(patches: Tensor, roll: tuple[int, int]) -> Tensor:
    """The patches of the four cells of each mosaic, (B, 4, N / 4, E).

    Single scenes are cut alike; nothing that is computed of them depends on the order.
    """
    count, number, width = patches.shape
    half = int(number**0.5) // 2
    down, right = roll
    grid = patches.reshape(count, 2 * half, 2 * half, width).roll((-down, -right), dims=(1, 2))
    quarters = grid.reshape(count, 2, half, 2, half, width)
    return quarters.transpose(2, 3).reshape(count, 4, half * half, width)


def patches(quarters: Tensor, roll: tuple[int, int]) -> Tensor:
    """Undoes ``cells``: (B, 4, N / 4, E) to (B, N, E)."""
    count, _, number, width = quarters.shape
    half = int(number**0.5)
    grid = quarters.reshape(count, 2, 2, half, half, width).transpose(2, 3)
    return grid.reshape(count, 2 * half, 2 * half, width).roll(roll, dims=(1, 2)).flatten(1, 2)


def guess_classes(attention: Tensor, presence: Tensor, words: Tensor) -> Tensor:
    """Which class the model itself gives each patch, ground first, (B, N, 1 + C).

    The score of a class that the caption names is its presence, times what refinement makes of it;
    of the classes and a constant for the ground the highest wins, softly. So the guess is better
    than what the patches say by themselves, and what learns from it gets better than what made it.

    Args:
        attention: between patches, (B, N, N), at any scale.
        presence: probability of each class, (B, N, C).
        words: classes that the caption of each patch's cell names, bool (B, N, C).
    """
    presence = presence * words
    transition = transition_matrix(attention)
    scores = (presence * (transition @ (transition @ presence))).sqrt()
    scores = scores / scores.amax(dim=1, keepdim=True).clamp_min(1e-6)
    scores = scores.masked_fill(~words, -torch.inf)
    ground = torch.full_like(scores[..., :1], GROUND_SCORE)
    return (SHARPEN * torch.cat([ground, scores], dim=-1)).softmax(dim=-1)


def _own_guess_losses(
    model: CLIPModel, batch: Batch, seen: Look, guess: Tensor, rng: random.Random
) -> dict[str, Tensor]:
    """What is learned from the guess (B, N, 1 + C): attention, and likeness of patches.

    Some images are seen once more as VVP sees a support: one class left, all else masked.
    """
    generator = torch.Generator(guess.device).manual_seed(rng.getrandbits(60))
    some = guess[::ALONE]
    kept = _one_class(some, generator)
    with torch.autocast(guess.device.type, torch.bfloat16):
        alone = look(model, leave_alone(batch.images[::ALONE], kept), batch.window)
    shown = torch.cat([_choose(guess, generator), _choose(kept[..., None].float(), generator)])
    labels = _at(torch.cat([guess, some]), shown).flatten(0, 1)
    owner = torch.cat([torch.arange(len(guess)), torch.arange(len(guess))[::ALONE]])
    owner = owner.to(guess.device).repeat_interleave(CHOSEN)
    alike = [
        alike_loss(_at(torch.cat(pair), shown).flatten(0, 1), labels, owner)
        for pair in zip(seen.tokens, alone.tokens, strict=True)
    ]
    affinity = [affinity_loss(maps, guess) for maps in seen.attention]
    return {"alike": torch.stack(alike).mean(), "affinity": torch.stack(affinity).mean()}


def _one_class(guess: Tensor, generator: torch.Generator) -> Tensor:
    """The patches that show one class of their image, drawn by their shares, bool (B, N)."""
    shares = guess[..., 1:].sum(dim=1) + 1e-6
    drawn = torch.multinomial(shares, 1, generator=generator)  # (B, 1)
    of_class = guess.gather(2, 1 + drawn[:, None].expand(-1, guess.shape[1], -1))[..., 0]
    return of_class > 0.5 * of_class.amax(dim=1, keepdim=True)


def leave_alone(images: Tensor, kept: Tensor) -> Tensor:
    """Images (B, H, W, 3) whose patches are in the mean colour but for those ``kept`` (B, N)."""
    side = images.shape[1] // PATCH
    pixels = kept.reshape(-1, side, side).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
    mean = torch.tensor(CLIP_MEAN, device=images.device).mul(255).round().to(torch.uint8)
    return torch.where(pixels[..., None], images, mean)


def _choose(kinds: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers of patches of each image, (B, CHOSEN), each kind (B, N, K) shown equally often."""
    weights = (kinds / kinds.sum(dim=1, keepdim=True).clamp_min(1.0)).sum(dim=-1)
    return torch.multinomial(weights + 1e-9, CHOSEN, generator=generator)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """The patches of ``values`` (B, N, D) that ``index`` (B, K) names, (B, K, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


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


def affinity_loss(attention: Tensor, guess: Tensor) -> Tensor:
    """Asks patches to attend to patches that the model itself gives the same class.

    Without it the late blocks' attention collects in a few patches, and refinement, which spreads
    a map along it, blurs instead of completing: ``-log sum_j A_ij p_i . p_j`` with the rows of A
    scaled to sum to one, patches of objects and of ground counting equally.

    Args:
        attention: of one block, (B, N, N).
        guess: class of each patch, ground first, (B, N, 1 + C), rows sum to one.
    """
    same = (guess @ guess.mT).to(attention.dtype)
    alike = (attention * same).sum(dim=-1).float() / attention.sum(dim=-1).float()
    loss, ground = -torch.log(alike + 1e-4), guess[..., 0]
    things = 1 - ground
    return ((loss * ground).sum() / ground.sum() + (loss * things).sum() / things.sum()) / 2


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
