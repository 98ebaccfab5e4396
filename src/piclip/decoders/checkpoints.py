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
from piclip.decoders.checkpoints_hdmnet import HDMNET
from piclip.decoders.key_map import KeyMap, read_checkpoint
from piclip.decoders.pretrained import PretrainedModule, load_strictly
from piclip.errors import ModelError, UsageError

STAGES = tuple((f"layer{stage}", f"backbone.stages.{stage}") for stage in range(5))
"""The backbone in every published few-shot network."""

_BLOCKS = tuple((f"layer{stage}", f"stages.{stage}") for stage in range(1, 5))

SEMSEG_RESNET = KeyMap(
    pairs=(
        ("conv1", "stages.0.0"),
        ("bn1", "stages.0.1"),
        ("conv2", "stages.0.3"),
        ("bn2", "stages.0.4"),
        ("conv3", "stages.0.6"),
        ("bn3", "stages.0.7"),
        *_BLOCKS,
    ),
    dropped=("fc",),
)

TORCHVISION_RESNET = KeyMap(
    pairs=(("conv1", "stages.0.0"), ("bn1", "stages.0.1"), *_BLOCKS), dropped=("fc",)
)

_VGG_STARTS = (0, 7, 14, 24, 34, 44)
TORCHVISION_VGG = KeyMap(
    pairs=tuple(
        (f"features.{layer}", f"stages.{stage}.{layer - _VGG_STARTS[stage]}")
        for stage in range(5)
        for layer in range(_VGG_STARTS[stage], _VGG_STARTS[stage + 1])
    ),
    dropped=("classifier",),
)

PSPNET = KeyMap(
    pairs=(
        *STAGES,
        ("ppm.features", "head.pooling.branches"),
        ("cls.0", "head.fuse.0"),
        ("cls.1", "head.fuse.1"),
        ("cls.4", "head.classifier"),
    ),
    aliases=tuple((f"layer{stage}", f"encoder.{stage}") for stage in range(5)),
)

PFENET = KeyMap(
    pairs=(
        *STAGES,
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("init_merge", "merge"),
        ("alpha_conv", "interscale"),
        ("beta_conv", "refine"),
        ("inner_cls", "inner_classifiers"),
        ("res1", "fuse"),
        ("res2", "refine_fused"),
        ("cls", "classifier"),
    )
)

BAM = KeyMap(
    pairs=(
        *STAGES,
        ("learner_base.0.features", "base_learner.pooling.branches"),
        ("learner_base.1.0", "base_learner.fuse.0"),
        ("learner_base.1.1", "base_learner.fuse.1"),
        ("learner_base.1.4", "base_learner.classifier"),
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("init_merge", "merge"),
        ("ASPP_meta.layer6_0", "aspp.average"),
        *((f"ASPP_meta.layer6_{branch + 1}", f"aspp.branches.{branch}") for branch in range(4)),
        ("res1_meta", "fuse"),
        ("res2_meta", "refine"),
        ("cls_meta", "classifier"),
        ("kshot_rw", "shot_weights.layers"),
        ("gram_merge", "ensemble.adjust"),
        ("cls_merge", "ensemble.merge"),
    )
)

KEY_MAPS: dict[str, KeyMap] = {
    "pspnet": PSPNET,
    "pfenet": PFENET,
    "bam": BAM,
    "hdmnet": HDMNET,
}
"""By the network's name."""


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
        backbone_key_map(backbone).to_own(_state_dict(weights)),
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
    network.load_weights(key_map_of(network).to_own(_state_dict(weights)))


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
            "exported: BAM and HDMNet must be built with published_shots."
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


def _state_dict(weights: str | Path | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(weights, Mapping):
        return {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return read_checkpoint(weights)
