"""Published weights of backbones, base learners and decoders, and ours under their names.

====================================  ==========================================================
Checkpoint                            Network it fits
====================================  ==========================================================
semseg's ``resnet50_v2.pth``,         backbones ``resnet50``, ``resnet101``
``resnet101_v2.pth`` (deep stem)
torchvision's ResNets                 backbones ``resnet50-plain``, ``resnet101-plain``
torchvision's ``vgg16_bn``            backbone ``vgg16bn``
BAM's PSPNet                          ``PSPNet(backbone, classes)``; the classes are one fewer
                                      than the outputs
PFENet                                ``PFENet(backbone=...)``
BAM, 1 shot                           ``BAM(..., published_shots=1)``
BAM, 5 shots                          ``BAM(..., published_shots=5, published_hidden=2 or 0)``
HDMNet, 1 or 5 shots                  ``HDMNet(prior="imagenet", published_shots=1 or 5)``
PI-CLIP, 1 or 5 shots                 ``HDMNet(prior="piclip", published_shots=1 or 5)``
====================================  ==========================================================

ImageNet's classifiers (``fc``, ``classifier``) are left out. A PSPNet's file names every tensor of
the backbone twice (``layer0`` and ``encoder.0``, ...): the second is an alias, written again on
export. :mod:`piclip.decoders.checkpoints_hdmnet` reads the options of an HDMNet or PI-CLIP off its
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from piclip.decoders.backbones import VGG16BN, Backbone
from piclip.decoders.key_map import KeyMap, state_dict_of
from piclip.decoders.pretrained import PretrainedModule, load_strictly
from piclip.decoders.published_names import (
    KEY_MAPS,
    SEMSEG_RESNET,
    TORCHVISION_RESNET,
    TORCHVISION_VGG,
)
from piclip.errors import ModelError, UsageError


def backbone_key_map(backbone: Backbone) -> KeyMap:
    """Returns the names under which ImageNet weights of a backbone are published."""
    if isinstance(backbone, VGG16BN):
        return TORCHVISION_VGG
    deep_stem = "stages.0.3.weight" in backbone.state_dict()
    return SEMSEG_RESNET if deep_stem else TORCHVISION_RESNET


def load_backbone(backbone: Backbone, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Copies published ImageNet weights into a backbone, strictly.

    Args:
        backbone: The backbone.
        weights: A checkpoint's file or its state dict.

    Raises:
        ModelError: If the file cannot be read, or its names or shapes are another network's.
    """
    load_strictly(
        backbone,
        backbone_key_map(backbone).to_own(state_dict_of(weights)),
        what="this backbone",
    )


def export_backbone(backbone: Backbone) -> dict[str, Tensor]:
    """Returns a backbone's weights under the published names, without ImageNet's classifier."""
    return backbone_key_map(backbone).to_published(backbone.state_dict())


def load_published(network: PretrainedModule, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Copies a published checkpoint into a PSPNet or a decoder, strictly.

    Args:
        network: The network, built with the checkpoint's options (see the table above).
        weights: The checkpoint's file or its state dict.

    Raises:
        ModelError: If the file cannot be read, or its names or shapes are another network's.
    """
    network.load_weights(key_map_of(network).to_own(state_dict_of(weights)))


def export_published(network: PretrainedModule) -> dict[str, Tensor]:
    """Returns the weights of a PSPNet or a decoder under the published names.

    Raises:
        ModelError: If the network has layers that the published one has not, such as BAM's
            weights for any number of shots.
    """
    try:
        return key_map_of(network).to_published(network.state_dict())
    except ModelError as error:
        raise ModelError(
            f"This {network.name} has layers that the published one has not, so it cannot be "
            "exported: BAM and HDMNet must be built with published_shots, HDMNet with three levels "
            "and two blocks too."
        ) from error


def key_map_of(network: PretrainedModule) -> KeyMap:
    """Returns the key map of a network's published checkpoints.

    Raises:
        UsageError: If there is none here.
    """
    if network.name not in KEY_MAPS:
        raise UsageError(
            f"There is no key map for {network.name!r} here: choose one of {', '.join(KEY_MAPS)}."
        )
    return KEY_MAPS[network.name]
