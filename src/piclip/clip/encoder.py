"""The frozen CLIP encoder: everything that the priors read, in one pass over an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from piclip.clip.checkpoints import load_clip
from piclip.clip.devices import resolve_device, resolve_dtype
from piclip.clip.preprocessing import patch_grid
from piclip.clip.settings import ModelSettings
from piclip.clip.vit import (
    ACTIVATIONS,
    BlockWeights,
    HeadWeights,
    LastBlock,
    forward_block,
    record_block,
)
from piclip.errors import ModelError, UsageError

if TYPE_CHECKING:
    from typing import Self, Unpack

    from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModel

    from piclip.clip.hub import HubOptions

DEFAULT_MODEL = "openai/clip-vit-base-patch16"

# Parts of a block by the name that `BlockWeights` has for them and the one of transformers.
_BLOCK_PARTS = {
    "ln1": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "ln2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


@dataclass(frozen=True, eq=False)
class Encoding:
    """What one pass over a batch of images gives; N = h * w patches in row-major order.

    Attributes:
        attention: Self-attention between patches, float32 (B, N, N): mean over the heads of the
            last m blocks, with the row and the column of the cls token dropped (so that rows sum
            to less than one).
        last_input: Tokens that enter the last block, cls first, (B, 1 + N, D).
        grid: (h, w).
        last_block: Record of the last block's forward pass, for `piclip.priors`.
        logit_scale: Factor on cosines of images and texts before a softmax.
        tokens: Patch tokens after each of the blocks that were asked for, (B, N, D) each.
    """

    attention: Tensor
    last_input: Tensor
    grid: tuple[int, int]
    last_block: LastBlock
    logit_scale: float
    tokens: tuple[Tensor, ...] = ()

    @property
    def last(self) -> Tensor:
        """Patch tokens after the last block, before the final layer norm, (B, N, D)."""
        return self.last_block.output[:, 1:]

    @property
    def previous(self) -> Tensor:
        """Patch tokens after the second-to-last block, (B, N, D)."""
        return self.last_input[:, 1:]


class Encoder:
    """A frozen CLIP with a ViT image tower.

    Args:
        model: A transformers ``CLIPModel``. It is moved to ``device`` and ``dtype``, set to
            evaluation mode and frozen in place; its weights are used without a copy.
        tokenizer: Its tokenizer.
        settings: Input size and preprocessing of the checkpoint; by default those of the model's
            own configuration and CLIP's channel statistics.
        attention_blocks: Number m of last blocks whose attention is averaged; by default what the
            settings say, else two thirds of the depth (8 of 12).
        device: "auto" (CUDA, else MPS, else CPU) or a torch device.
        dtype: "float32", "bfloat16", "float16", the same as a torch dtype, or "auto": float16 on
            CUDA, else float32.

    Raises:
        UsageError: An unknown device or dtype, or ``attention_blocks`` outside 1 .. depth.
        ModelError: The image tower has an activation other than those of the published CLIPs.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        *,
        settings: ModelSettings | None = None,
        attention_blocks: int | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        self.model: Any = (
            model.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        )
        self.tokenizer: Any = tokenizer
        vision = self.model.config.vision_config
        self.settings = settings or ModelSettings(image_size=vision.image_size)
        self.patch_size: int = vision.patch_size
        self.width: int = vision.hidden_size
        self._blocks = _block_weights(self.model.vision_model)
        self._head = _head_weights(self.model)
        self.logit_scale = float(self.model.logit_scale.float().exp())
        """Factor on cosines before a softmax over texts (100 in the published models)."""
        blocks = self.settings.attention_blocks if attention_blocks is None else attention_blocks
        self.attention_blocks = max(1, round(self.depth * 2 / 3)) if blocks is None else blocks
        if not 1 <= self.attention_blocks <= self.depth:
            raise UsageError(
                f"The attention can be averaged over 1 to {self.depth} blocks of this model, not "
                f"over {blocks}."
            )
        self._positions: dict[tuple[int, int], Tensor] = {}
        self.source: str | None = None
        """What `from_pretrained` was given; None for an encoder made from a model in memory."""
        self.revision: str | None = None
        """The revision that `from_pretrained` was given."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Loads a hub name, a folder, a weights file or ``"builtin"``.

        See `piclip.clip.checkpoints.load_clip` for the sources and the errors, and
        `piclip.clip.hub.hub_folder` for the hub; device and dtype as in the class.
        """
        clip = load_clip(name_or_path, **hub)
        encoder = cls(
            clip.model, clip.tokenizer, settings=clip.settings, device=device, dtype=dtype
        )
        encoder.source, encoder.revision = str(name_or_path), hub.get("revision")
        return encoder

    def to(self, device: str | torch.device) -> Self:
        """Moves the model, in place; its type stays.

        Raises:
            UsageError: There is no such device here.
        """
        self.device = resolve_device(device)
        self.model.to(device=self.device)
        self._blocks = _block_weights(self.model.vision_model)
        self._head = _head_weights(self.model)
        self._positions.clear()
        return self

    @property
    def image_size(self) -> int:
        """Side in pixels to which square images are resized by default."""
        return self.settings.image_size

    @property
    def embed_dim(self) -> int:
        """Length E of the vectors in the space that texts and images share."""
        return self._head.projection.shape[0]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def last_two(self) -> tuple[int, int]:
        """Numbers of the last two blocks, which VVP compares."""
        return self.depth - 1, self.depth

    @torch.inference_mode()
    def encode(self, pixels: Tensor, blocks: Sequence[int] = ()) -> Encoding:
        """Encodes images for the priors.

        Args:
            pixels: Normalised images, (B, 3, H, W); H and W are multiples of the patch.
            blocks: Further blocks whose tokens are wanted, counted from 1.

        Returns:
            Tokens of the last two blocks, mean attention, record of the last block.

        Raises:
            UsageError: Pixels of another shape, or a block that is not there.
        """
        self._check_blocks(blocks)
        x, grid = self._embed(pixels)
        attention = x.new_zeros(len(x), x.shape[1], x.shape[1], dtype=torch.float32)
        first_averaged = self.depth - self.attention_blocks
        found = {}
        for number, weights in enumerate(self._blocks[:-1], 1):
            x = forward_block(x, weights, attention if number > first_averaged else None)
            if number in blocks:
                found[number] = x[:, 1:]
        block = record_block(x, self._blocks[-1], self._head, attention)
        found[self.depth] = block.output[:, 1:]
        maps = self.attention_blocks * block.weights.heads
        return Encoding(
            attention=attention[:, 1:, 1:] / maps,
            last_input=x,
            grid=grid,
            last_block=block,
            logit_scale=self.logit_scale,
            tokens=tuple(found[number] for number in blocks),
        )

    @torch.inference_mode()
    def resume(self, last_input: Tensor, attention: Tensor, grid: tuple[int, int]) -> Encoding:
        """The encoding of images of which little was kept; the last block alone is run again.

        The record of the last block is eleven times as large as what this needs of an encoding.

        Args:
            last_input: As in `Encoding`, on any device, (B, 1 + N, D).
            attention: The same, (B, N, N).
            grid: (h, w).
        """
        x = last_input.to(self.device)
        scratch = x.new_zeros(len(x), x.shape[1], x.shape[1], dtype=torch.float32)
        block = record_block(x, self._blocks[-1], self._head, scratch)
        return Encoding(
            attention=attention.to(self.device),
            last_input=x,
            grid=grid,
            last_block=block,
            logit_scale=self.logit_scale,
        )

    @torch.inference_mode()
    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch tokens (B, N, D) after some blocks, counted from 1; as `VisualTower.tokens`.

        There are neither attention maps nor a record.
        """
        self._check_blocks(blocks)
        x, _ = self._embed(pixels)
        found = {}
        for number, weights in enumerate(self._blocks[: max(blocks)], 1):
            x = forward_block(x, weights)
            if number in blocks:
                found[number] = x[:, 1:]
        return [found[number] for number in blocks]

    def _check_blocks(self, blocks: Sequence[int]) -> None:
        if wrong := [number for number in blocks if not 1 <= number <= self.depth]:
            raise UsageError(f"The model has blocks 1 to {self.depth}, not {wrong[0]}.")

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeds texts, each cut to the model's context length.

        Returns:
            L2-normalised float32 vectors, (T, E).

        Raises:
            UsageError: No text is given.
        """
        if not texts:
            raise UsageError("There is no text to encode; give at least one.")
        ids = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )["input_ids"]
        return self.encode_token_ids(ids)

    @torch.inference_mode()
    def encode_token_ids(self, ids: Tensor) -> Tensor:
        """Embeds tokenised texts (T, L) as `encode_text` does.

        What follows the end token does not matter, since the text tower is causal.
        """
        pooled = self.model.text_model(input_ids=ids.long().to(self.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1)

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, 1 + N, D) that enter the first block, and the grid."""
        grid = patch_grid(pixels, self.patch_size)
        embeddings = self.model.vision_model.embeddings
        pixels = pixels.to(device=self.device, dtype=self.dtype)
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        cls_token = embeddings.class_embedding.expand(len(patches), 1, -1)
        tokens = torch.cat([cls_token, patches], dim=1) + self._position_embedding(grid)
        return self.model.vision_model.pre_layrnorm(tokens), grid

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings (1 + N, D), resized bilinearly (as published; not bicubic)."""
        if grid not in self._positions:
            table = self.model.vision_model.embeddings.position_embedding.weight
            side = round((len(table) - 1) ** 0.5)
            square = table[1:].float().T.unflatten(1, (side, side))[None]
            resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
            patches = resized[0].flatten(1).T.to(self.dtype)
            self._positions[grid] = torch.cat([table[:1], patches])
        return self._positions[grid]


def _block_weights(vision_model: CLIPVisionModel) -> list[BlockWeights]:
    config = vision_model.config
    if config.hidden_act not in ACTIVATIONS:
        raise ModelError(
            f"The model's activation {config.hidden_act!r} is not supported; use a CLIP with one "
            f"of {', '.join(ACTIVATIONS)}."
        )
    return [
        BlockWeights(
            **{
                f"{part}_{kind}": getattr(layer.get_submodule(name), kind)
                for part, name in _BLOCK_PARTS.items()
                for kind in ("weight", "bias")
            },
            heads=config.num_attention_heads,
            eps=config.layer_norm_eps,
            activation=ACTIVATIONS[config.hidden_act],
        )
        for layer in vision_model.encoder.layers
    ]


def _head_weights(model: CLIPModel) -> HeadWeights:
    norm = model.vision_model.post_layernorm
    return HeadWeights(norm.weight, norm.bias, model.visual_projection.weight, norm.eps)
