"""PSPNet, the base learner: plain semantic segmentation of the base classes.

    stage 4 -> average pools of 1, 2, 3 and 6 bins -> 1x1 conv, batch norm, ReLU -> resized, and
    concatenated with stage 4 -> 3x3 conv, batch norm, ReLU -> dropout -> 1x1 conv -> logits

It is trained on its own; the decoders then take over its backbone, and those with a base learner
its head. Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, as used by Lang et al.,
"Learning What Not to Segment", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from piclip.decoders.backbones import resize
from piclip.decoders.layers import cross_entropy
from piclip.decoders.networks import NetworkOptions, PretrainedModule

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Appends to a map its averages over grids with sides of `BINS`, together as many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // len(BINS)
        self.channels = channels + width * len(BINS)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(side),
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            for side in BINS
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the map and its branches, (B, C, h, w) -> (B, 2 C, h, w)."""
        size = maps.shape[-2:]
        return torch.cat([maps, *(resize(branch(maps), size) for branch in self.branches)], 1)


class PyramidHead(nn.Module):
    """The head of PSPNet: pyramid pooling and a classifier of ``outputs``, background included."""

    def __init__(
        self, channels: int, outputs: int, *, width: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(channels)
        self.fuse = nn.Sequential(
            nn.Conv2d(self.pooling.channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(dropout),
        )
        self.classifier = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Returns scores at the size of the map, (B, C, h, w) -> (B, outputs, h, w)."""
        scores: Tensor = self.classifier(self.fuse(self.pooling(maps)))
        return scores


@dataclass(frozen=True, kw_only=True)
class PSPNetOptions(NetworkOptions):
    """What a PSPNet is built with."""

    classes: int = 15  # base classes; background comes in addition, as output 0
    width: int = 512  # channels before the classifier
    dropout: float = 0.1  # probability with which one of them is dropped in training


class PSPNet(PretrainedModule):
    """Semantic segmentation of the base classes; the backbone is trained with it."""

    name = "pspnet"
    Options = PSPNetOptions
    options: PSPNetOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__(**options)
        self.head = PyramidHead(
            self.backbone.channels[2],
            self.options.classes + 1,
            width=self.options.width,
            dropout=self.options.dropout,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores background and the base classes, (B, 1 + classes, H, W).

        The images (B, 3, H, W) have ImageNet's mean and deviation removed.
        """
        return resize(self.head(self.backbone(images)[-1]), images.shape[-2:])

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross entropy with the base classes, long (B, H, W): 0 background, 255 = ignore."""
        return cross_entropy(logits, target)
