"""Frozen image towers of any plain ViT that transformers has, CLIP's and those without texts."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from piclip.clip.checkpoints import find_checkpoint, load_weights
from piclip.clip.devices import resolve_device, resolve_dtype
from piclip.clip.preprocessing import patch_grid
from piclip.clip.settings import CLIP_MEAN, CLIP_STD, ModelSettings, read_json, read_settings
from piclip.errors import ModelError, UsageError

if TYPE_CHECKING:
    from typing import Self, Unpack

    from piclip.clip.hub import HubOptions

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = (CLIP_MEAN, CLIP_STD)
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

# By the type in config.json: transformers' class, and the mean and standard deviation of the
# channels where the checkpoint does not say them. Of all these classes holds that the blocks are
# the one ModuleList, and that class, distillation and register tokens come before the patches.
_TOWERS = {
    "vit": ("ViTModel", _IMAGENET),
    "deit": ("DeiTModel", _IMAGENET),
    "dinov2": ("Dinov2Model", _IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", _IMAGENET),
    "dinov3_vit": ("DINOv3ViTModel", _IMAGENET),
    "clip": ("CLIPVisionModel", _CLIP),
    "clip_vision_model": ("CLIPVisionModel", _CLIP),
    "siglip": ("SiglipVisionModel", _HALF),
    "siglip_vision_model": ("SiglipVisionModel", _HALF),
}
_KINDS = ", ".join(_TOWERS)

# Parts that no patch token depends on; they may be absent from the weights.
_POOLERS = ("pooler", "head")
_UNUSED = {*_POOLERS, "mask_token"}

_LARGE = 384  # pixels; towers trained at this size or above run at it, others at half as much again


class VisualTower:
    """A frozen ViT image tower, read through transformers.

    Args:
        model: A ``ViTModel``, ``DeiTModel``, ``Dinov2Model``, ``Dinov2WithRegistersModel``,
            ``DINOv3ViTModel``, ``CLIPVisionModel`` or ``SiglipVisionModel`` of transformers. It is
            moved to ``device`` and ``dtype``, set to evaluation mode and frozen in place.
        settings: Input size, preprocessing and the scorer's constants; by default the colours of
            the published models of this kind, at 1.5 times the size of the training, or at the
            training's if it is 384 or more.
        device: "auto" (CUDA, else MPS, else CPU) or a torch device.
        dtype: "float32", "bfloat16", "float16", the same as a torch dtype, or "auto": float16 on
            CUDA, else float32.

    Attributes:
        source: What `from_pretrained` was given; None for a tower made from a model in memory.
        revision: The revision that `from_pretrained` was given.
        model: The module of transformers.
        depth: Number of blocks.
        width: Length D of a token.
        patch_size: Side of a patch in pixels.

    Raises:
        UsageError: An unknown device or dtype.
        ModelError: The model is of another kind or has no square patches of RGB images.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - transformers' models have no type of their own
        *,
        settings: ModelSettings | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> None:
        self.source: str | None = None
        self.revision: str | None = None
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        config = model.config
        if type(model).__name__ != _TOWERS.get(config.model_type, ("",))[0]:
            raise ModelError(
                f"A {type(model).__name__} is no image tower that piclip reads: give the bare "
                f"vision model of one of these types: {_KINDS}."
            )
        self.settings = settings or _default_settings(config)
        self.patch_size: int = config.patch_size
        self.width: int = config.hidden_size
        # Parameters alone: the frequencies of rotary positions are a buffer, and stay in float32.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(self.dtype)
        self.model = model.to(self.device).eval().requires_grad_(False)
        (self._blocks,) = (part for part in model.modules() if isinstance(part, nn.ModuleList))
        self.depth = len(self._blocks)
        # DINO's models fit their positions to the image by themselves, the others when told to.
        told = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if told else {}
        self._hooking = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Loads the image tower of a hub name or of a transformers folder.

        Args:
            name_or_folder: With a model of a type that this module's table lists. Of a CLIP or a
                SigLIP, the text tower is left aside; heads always are. Settings are those of
                ``piclip.json`` or ``preprocessor_config.json`` where these say them.
            device: As in the class.
            dtype: As in the class.
            hub: As in `piclip.clip.hub.hub_folder`.

        Raises:
            UsageError: An unknown device or dtype.
            ModelError: The model is unknown, cannot be downloaded, is damaged, incomplete or no
                such ViT.
        """
        folder = find_checkpoint(name_or_folder, tokenizer=False, **hub)
        if folder.is_file():
            raise ModelError(
                f"{folder} is a file, which does not say what kind of vision model it holds: give "
                "a transformers folder with config.json."
            )
        import transformers  # noqa: PLC0415 - slow to import

        kind, _ = _TOWERS[_model_type(folder)]
        model, missing = load_weights(
            getattr(transformers, kind), folder, attn_implementation="sdpa"
        )
        if missing := [name for name in missing if _UNUSED.isdisjoint(name.split("."))]:
            raise ModelError(
                f"The weights in {folder} are no complete image tower: {missing[0]} is missing "
                f"(with {len(missing) - 1} more); download or convert the model again."
            )
        for name in _POOLERS:  # where absent from the weights, they are random
            if hasattr(model, name):
                setattr(model, name, nn.Identity())
        settings = read_settings(
            folder,
            _default_settings(model.config),
            patch=model.config.patch_size,
            depth=model.config.num_hidden_layers,
        )
        tower = cls(model, settings=settings, device=device, dtype=dtype)
        tower.source, tower.revision = str(name_or_folder), hub.get("revision")
        return tower

    def to(self, device: str | torch.device) -> Self:
        """Moves the model, in place; its type stays.

        Raises:
            UsageError: There is no such device here.
        """
        self.device = resolve_device(device)
        self.model.to(self.device)
        return self

    @torch.inference_mode()
    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch tokens of images after some of the blocks, from one pass.

        Args:
            pixels: Normalised images, (B, 3, H, W); H and W are multiples of the patch.
            blocks: Blocks, counted from 1 to ``depth``.

        Returns:
            For each of ``blocks``, the residual stream after it, before any final norm, without the
            tokens that are no patches: (B, N, D) in the tower's type, N = h * w in row-major order.

        Raises:
            UsageError: Pixels of another shape, or a block that the tower does not have.
        """
        height, width = patch_grid(pixels, self.patch_size)
        if wrong := [block for block in blocks if not 1 <= block <= self.depth]:
            raise UsageError(
                f"The tower has no block {wrong[0]}: choose blocks from 1 to {self.depth}."
            )
        kept: dict[int, Tensor] = {}

        def keep(block: int, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            kept[block] = output[:, -height * width :]

        # Hooks hear every pass through the model, so that two threads must not run it at a time.
        with self._hooking, ExitStack() as hooks:
            for block in set(blocks):
                hook = self._blocks[block - 1].register_forward_hook(partial(keep, block))
                hooks.callback(hook.remove)
            self.model(pixels.to(device=self.device, dtype=self.dtype), **self._options)
        return [kept[block] for block in blocks]


def holds_text_tower(name_or_path: str | Path, **hub: Unpack[HubOptions]) -> bool:
    """Whether a checkpoint is one for `load_clip`, a CLIP with its texts, or for `VisualTower`.

    Only the configuration is read, or downloaded. Weights files count as CLIPs, and so do folders
    without a ``model_type`` in their configuration: `load_clip` says what is wrong with them.
    SigLIP counts as a tower of images alone, since piclip does not read its texts. The arguments
    are those of `find_checkpoint`.

    Raises:
        ModelError: The model is unknown or cannot be downloaded, or is neither of the two.
    """
    path = find_checkpoint(name_or_path, weights=False, tokenizer=False, **hub)
    config = None if path.is_file() else read_json(path / "config.json")
    if config is None or "model_type" not in config:
        return True
    return _model_type(path) == "clip"


def _model_type(folder: Path) -> str:
    """The type of the model in a folder, one of the table."""
    config = read_json(folder / "config.json")
    if config is None:
        raise ModelError(
            f"{folder} has no config.json, so it is no transformers folder: give the folder or hub "
            "name of a vision transformer."
        )
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _TOWERS:
        raise ModelError(
            f"{folder} holds a model of type {model_type!r}, not a CLIP or a plain vision "
            f"transformer: use a model of one of these types: {_KINDS}."
        )
    return model_type


def _default_settings(config: Any) -> ModelSettings:  # noqa: ANN401 - transformers' configurations
    """The colours of the published models; the side of their images, or half as much again.

    ModelError where the patches are none that piclip can cut images into.
    """
    patch, (_, (mean, std)) = config.patch_size, _TOWERS[config.model_type]
    if not isinstance(patch, int) or config.num_channels != 3:
        raise ModelError("The tower's patches are oblong or not of RGB images: use another.")
    trained = config.image_size if isinstance(config.image_size, int) else min(config.image_size)
    size = trained if trained >= _LARGE else trained * 3 // 2
    return ModelSettings(image_size=size // patch * patch, mean=mean, std=std)
