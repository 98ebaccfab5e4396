"""The image backbones of the decoders: dilated ResNets, VGG-16 with batch norm, and frozen ViTs.

A convolutional backbone is five ``stages``; the decoders read the last three. The ResNets have the
stem of three 3x3 convolutions ("deep stem") of the published few-shot networks, and keep their
resolution once ``output_stride`` is reached: from there a dilation replaces each further stride. A
ViT gives the tokens after three of its blocks instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.clip.cache import FeatureCache, content_key, weights_hash
from piclip.clip.towers import VisualTower
from piclip.decoders.views import IMAGENET_MEAN, IMAGENET_STD
from piclip.errors import ModelError, UsageError


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes maps (B, C, h, w) to ``size`` = (height, width): bilinear, corners aligned.

    Every resize of the published decoders is of this kind. Maps may have no channel.
    """
    if maps.shape[-2:] == tuple(size):
        return maps
    if maps.shape[1] == 0:
        return maps.new_zeros(*maps.shape[:2], *size)
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class Backbone(nn.Module):
    """Five stages, each applied to the output of the one before.

    ``channels`` are the numbers of channels of stages 2, 3 and 4.
    """

    def __init__(self, stages: Sequence[nn.Module], channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the maps of all five stages, (B, C, h, w), the shallowest first.

        The images (B, 3, H, W) have ImageNet's mean and deviation removed.
        """
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps

    def read(
        self, images: Tensor, masks: Tensor | None = None, *, high: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns stages 2, 3 and 4, stage 2 resized to the size of stage 3 (they differ in VGG).

        Stage 4 sees stage 3 inside the masks, in [0, 1], (B, 1, H, W), or all of it without; where
        nothing reads ``high`` it is empty, (0, C3, h, w).
        """
        for stage in self.stages[:3]:
            images = stage(images)
        middle = self.stages[3](images)
        size = middle.shape[-2:]
        seen = middle if masks is None else middle * resize(masks, size)
        return resize(images, size), middle, self.stages[4](seen) if high else middle[:0]


class Bottleneck(nn.Module):
    """The residual block 1x1 - 3x3 - 1x1; dilation and stride sit on the 3x3.

    Inside are ``width`` channels, at the end four times as many; the shortcut has the stride, too.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Returns ``relu(block(x) + shortcut(x))``."""
        x = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        return F.relu(x + self.downsample(maps), inplace=True)


class ResNet(Backbone):
    """A dilated ResNet of bottlenecks.

    Args:
        blocks: Number of bottlenecks of stages 1 to 4 (ResNet-50: 3, 4, 6, 3).
        width: Inner channels of stage 1, doubled at each stage; stage ``s`` has
            ``4 * width * 2 ** (s - 1)`` output channels.
        output_stride: Image pixels per pixel of the last three stages: 4, 8, 16 or 32.
        deep_stem: Three 3x3 convolutions in front, as in the published few-shot networks;
            otherwise one 7x7, as in torchvision's weights.

    Raises:
        UsageError: If a number is not possible.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        output_stride: int = 8,
        deep_stem: bool = True,
    ) -> None:
        if len(blocks) != 4 or min(blocks) < 1 or width < 1 or output_stride not in (4, 8, 16, 32):
            raise UsageError(
                f"A ResNet of blocks {tuple(blocks)}, width {width} and output stride "
                f"{output_stride} cannot be built: give four positive numbers of blocks, a "
                "positive width and an output stride of 4, 8, 16 or 32."
            )
        inputs = 2 * width if deep_stem else width
        stem = _convolution(3, width, 3 if deep_stem else 7, stride=2)
        if deep_stem:
            stem += [*_convolution(width, width), *_convolution(width, inputs)]
        stages = [nn.Sequential(*stem, nn.MaxPool2d(3, stride=2, padding=1))]
        reached, dilation = 4, 1
        for stage, count in enumerate(blocks):
            stride = 1
            if stage > 0 and reached < output_stride:
                stride, reached = 2, 2 * reached
            elif stage > 0:
                dilation *= 2
            inner = width * 2**stage
            outputs = Bottleneck.expansion * inner
            stages.append(
                nn.Sequential(
                    Bottleneck(inputs, inner, stride=stride, dilation=dilation),
                    *(Bottleneck(outputs, inner, dilation=dilation) for _ in range(count - 1)),
                )
            )
            inputs = outputs
        super().__init__(stages, (8 * width, 16 * width, 32 * width))


def _convolution(
    inputs: int, outputs: int, side: int = 3, *, stride: int = 1, bias: bool = False
) -> list[nn.Module]:
    """A convolution with its batch norm and ReLU."""
    return [
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class VGG16BN(Backbone):
    """VGG-16 with batch norm, without its last pool: stages 3 and 4 have stride 16.

    Pools round up. Stage 2 has stride 8, so `Backbone.read` halves it.
    """

    def __init__(self) -> None:
        plan = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        stages: list[nn.Module] = []
        inputs = 3
        for widths in plan:
            layers: list[nn.Module] = []
            for outputs in widths:
                layers += _convolution(inputs, outputs, bias=True)
                inputs = outputs
            if len(stages) < 4:
                layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
            stages.append(nn.Sequential(*layers))
        super().__init__(stages, (256, 512, 512))


class ViT(Backbone):
    """A frozen ViT of transformers: the tokens after three of its blocks.

    Its weights are not saved with a decoder; the option ``model`` says where they are, and their
    hash, which is saved, that they are the same.

    Args:
        model: What `piclip.clip.towers.VisualTower.from_pretrained` takes.
        blocks: The blocks that stand for stages 2, 3 and 4, counted from 1; by default those after
            half, three quarters and all of the depth.
        cache: Folder that keeps the tokens, for images that come back unchanged.

    Raises:
        UsageError: Not three blocks of the model.
        ModelError: The model cannot be read.
    """

    digest: Tensor

    def __init__(
        self, *, model: str, blocks: Sequence[int] | None = None, cache: str | Path | None = None
    ) -> None:
        tower = VisualTower.from_pretrained(model, device="cpu", dtype="float32")
        super().__init__([], (tower.width, tower.width, tower.width))
        # No submodule: frozen, it is not part of what is trained and saved.
        self.tower = tower
        self.blocks = tuple(blocks or (tower.depth // 2, tower.depth * 3 // 4, tower.depth))
        if len(self.blocks) != 3 or not all(1 <= block <= tower.depth for block in self.blocks):
            raise UsageError(
                f"The backbone vit reads three blocks from 1 to {tower.depth} of {model}, not "
                f"{', '.join(map(str, self.blocks))}."
            )
        self._hash = weights_hash(tower.model)
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(self._hash))))
        self._cache = None if cache is None else FeatureCache(cache)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the maps of the three blocks, (B, C, h, w) each; see `Backbone.forward`."""
        if bytes(self.digest.tolist()).hex() != self._hash:
            raise ModelError(
                f"This network was trained on another ViT than {self.tower.source}; put the same "
                f"weights there, or train it again."
            )
        if self._cache is None:
            return list(self._tokens(images))
        found = []
        for image in images:
            key = content_key("vit", self._hash, str(self.blocks), image)
            kept = self._cache.get(key)
            if kept is None:
                kept = {"maps": self._tokens(image[None])[:, 0]}
                self._cache.put(key, kept)
            found.append(kept["maps"])
        return list(torch.stack(found, 1).to(images.device))

    def read(
        self, images: Tensor, masks: Tensor | None = None, *, high: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Backbone.read`; attention mixes all tokens, so that nothing is masked inside.

        The priors that compare the last maps mask them themselves.
        """
        low, middle, last = self(images)
        return low, middle, last if high else middle[:0]

    def _tokens(self, images: Tensor) -> Tensor:
        """The maps of the three blocks, (3, B, C, h, w)."""
        patch, settings = self.tower.patch_size, self.tower.settings
        grid = [-(-side // patch) for side in images.shape[-2:]]
        mean, std, own_mean, own_std = (
            torch.tensor(values, device=images.device).view(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD, settings.mean, settings.std)
        )
        pixels = images
        if (settings.mean, settings.std) != (IMAGENET_MEAN, IMAGENET_STD):
            pixels = (images * std + mean - own_mean) / own_std
        self.tower.to(images.device)
        tokens = self.tower.tokens(resize(pixels, [patch * side for side in grid]), self.blocks)
        # A copy, which training may save for its backward pass.
        maps: Tensor = torch.stack(tokens).transpose(2, 3).unflatten(3, grid)
        return maps.clone()


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet50": ResNet,
    "resnet101": partial(ResNet, blocks=(3, 4, 23, 3)),
    "resnet50-plain": partial(ResNet, deep_stem=False),
    "resnet101-plain": partial(ResNet, blocks=(3, 4, 23, 3), deep_stem=False),
    "vgg16bn": VGG16BN,
    "tiny": partial(ResNet, blocks=(1, 1, 1, 1), width=16),
    "vit": ViT,
}


def build_backbone(name: str, **options: Any) -> Backbone:  # noqa: ANN401 - of many kinds
    """Builds a backbone by name, with random weights but for ``vit``.

    There are ``resnet50``, ``resnet101`` (deep stem); ``resnet50-plain``, ``resnet101-plain``
    (torchvision's 7x7 stem); ``vgg16bn``; ``tiny``, a ResNet of four narrow blocks; and ``vit``,
    any frozen ViT. Options are the arguments of `ResNet`, instead of the name's own, and of `ViT`.

    Raises:
        UsageError: If there is no such backbone, or it does not take an option.
    """
    if name not in BACKBONES:
        raise UsageError(f"There is no backbone {name!r}: choose one of {', '.join(BACKBONES)}.")
    try:
        return BACKBONES[name](**options)
    except TypeError as error:
        raise UsageError(
            f"The backbone {name!r} cannot be built with the options {', '.join(options)}: ResNets "
            "take blocks, width, output_stride and deep_stem, VGG none, vit the model and, if "
            "wanted, blocks and cache."
        ) from error
