"""The few kinds of layers that the decoders repeat."""

from __future__ import annotations

from torch import nn


def reduction(inputs: int, width: int, dropout: float) -> nn.Sequential:
    """Returns a 1x1 convolution without bias, a ReLU, and a dropout of whole channels."""
    return nn.Sequential(*pointwise(inputs, width), nn.Dropout2d(dropout))


def pointwise(inputs: int, width: int) -> nn.Sequential:
    """Returns a 1x1 convolution without bias and a ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.ReLU())


def two_convolutions(width: int) -> nn.Sequential:
    """Returns two 3x3 convolutions without bias, each with a ReLU."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
    )


def mask_classifier(width: int) -> nn.Sequential:
    """Returns the layers from features to scores of background and object."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(width, 2, 1),
    )
