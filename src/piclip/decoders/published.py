"""Published checkpoints of backbones, base learners and decoders: read, and ours written as such.

====================================  ==========================================================
Checkpoint                            Network it fits
====================================  ==========================================================
semseg's ``resnet50_v2.pth``,         backbones ``resnet50``, ``resnet101``
``resnet101_v2.pth`` (deep stem)
torchvision's ResNets                 backbones ``resnet50-plain``, ``resnet101-plain``
torchvision's ``vgg16_bn``            backbone ``vgg16bn``
BAM's PSPNet                          ``PSPNet(backbone=..., classes=...)``; the classes are one
                                      fewer than the outputs
PFENet                                ``PFENet(backbone=...)``
BAM, 1 shot                           ``BAM(..., published_shots=1)``
BAM, 5 shots                          ``BAM(..., published_shots=5, published_hidden=2 or 0)``
HDMNet, 1 or 5 shots                  ``HDMNet(prior="imagenet", published_shots=1 or 5)``
PI-CLIP, 1 or 5 shots                 ``HDMNet(prior="piclip", published_shots=1 or 5)``
====================================  ==========================================================

HDMNet and PI-CLIP share their names; shapes tell them apart (`published_options`).

Knowingly dropped on reading are ImageNet's classifiers (``fc``, ``classifier``) and every
``clip_model.*`` of PI-CLIP: the frozen CLIP itself and its leaked
``clip_model.visual.positional_embedding_new``, a resized copy that depends on the image seen last.
Every other name must be known, and none may be missing. A PSPNet's file names every tensor of the
backbone twice (``layer0`` and ``encoder.0``, ...): the second is an alias, written again on export.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from piclip.clip.weight_files import read_state_dict
from piclip.decoders.backbones import VGG16BN, Backbone
from piclip.decoders.hdmnet import HDMNet
from piclip.decoders.networks import PretrainedModule, load_strictly
from piclip.errors import ModelError, UsageError


@dataclass(frozen=True)
class KeyMap:
    """Which beginning of a published name is which beginning of ours; the rest stays.

    A beginning ends at a dot or at the end of the name. Of several that fit, the longest counts.
    Both ways a name that is not known is a ModelError.

    Attributes:
        pairs: Pairs of beginnings, published and ours; each occurs once.
        dropped: Beginnings of published names that we have no use for.
        aliases: Pairs of published beginnings: the second names the same tensors as the first.
    """

    pairs: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()

    def to_own(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames the tensors of a published checkpoint to ours."""
        left_out = (*self.dropped, *(alias for _, alias in self.aliases))
        kept = {name: tensor for name, tensor in published.items() if not _begins(name, left_out)}
        return _rename(kept, dict(self.pairs))

    def to_published(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames our tensors to the published names, aliases included."""
        published = _rename(own, {ours: theirs for theirs, ours in self.pairs})
        for original, alias in self.aliases:
            named = {n: t for n, t in published.items() if _begins(n, (original,))}
            published.update(_rename(named, {original: alias}))
        return published


def _begins(name: str, beginnings: Iterable[str]) -> bool:
    return any(name == start or name.startswith(f"{start}.") for start in beginnings)


def _rename(tensors: Mapping[str, Tensor], beginnings: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        fitting = [start for start in beginnings if _begins(name, (start,))]
        if not fitting:
            raise ModelError(
                f"The tensor {name!r} belongs to no layer of this network: the checkpoint is of "
                "another kind."
            )
        start = max(fitting, key=len)
        renamed[beginnings[start] + name[len(start) :]] = tensor
    return renamed


STAGES = tuple((f"layer{stage}", f"backbone.stages.{stage}") for stage in range(5))
"""The backbone in every published few-shot network."""

_REDUCTIONS = (("down_query", "reduce_query"), ("down_supp", "reduce_support"))
_ENSEMBLE = (
    ("kshot_rw", "shot_weights.layers"),
    ("gram_merge", "ensemble.adjust"),
    ("cls_merge", "ensemble.merge"),
)
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
        *_REDUCTIONS,
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
        *_REDUCTIONS,
        ("init_merge", "merge"),
        ("ASPP_meta.layer6_0", "aspp.average"),
        *((f"ASPP_meta.layer6_{branch + 1}", f"aspp.branches.{branch}") for branch in range(4)),
        ("res1_meta", "fuse"),
        ("res2_meta", "refine"),
        ("cls_meta", "classifier"),
        *_ENSEMBLE,
    )
)

_ATTENTION_BLOCK = (
    ("norm1", "attention_norm"),
    ("attn.attn.linear_q", "attention.query"),
    ("attn.attn.linear_k", "attention.key"),
    ("attn.attn.linear_v", "attention.value"),
    ("attn.attn.linear_o", "attention.output"),
    ("attn.sr", "attention.reduction"),
    ("attn.norm", "attention.reduction_norm"),
    ("norm2", "feedforward_norm"),
    ("ffn.layers.0", "feedforward.expand"),
    ("ffn.layers.1", "feedforward.position"),
    ("ffn.layers.4", "feedforward.contract"),
)


def _matching_pairs(levels: int = 3, blocks: int = 2) -> Iterator[tuple[str, str]]:
    for level in range(levels):
        down, match = f"down_sample_layers.{level}", f"match_layers.{level}"
        own = f"levels.{level}"
        yield f"{down}.0", f"{own}.embedding"
        yield f"{down}.{blocks + 1}", f"{own}.norm"
        yield f"{match}.1.conv", f"{own}.fusion.conv"
        yield f"{match}.1.bn", f"{own}.fusion.norm"
        yield f"parse_layers.{level}", f"{own}.refinement"
        for theirs, ours in _ATTENTION_BLOCK:
            yield f"{match}.0.{theirs}", f"{own}.matching.{ours}"
            for block in range(blocks):
                yield f"{down}.{block + 1}.{theirs}", f"{own}.blocks.{block}.{ours}"
    yield "cls", "classifier"


MATCHING = KeyMap(
    pairs=tuple((f"mix_transformer.{theirs}", ours) for theirs, ours in _matching_pairs())
)
"""The matching alone: names behind ``transformer.`` and those of ``HierarchicalMatching``."""

HDMNET = KeyMap(
    pairs=(
        *STAGES,
        ("ppm.features", "base_learner.pooling.branches"),
        ("cls.0", "base_learner.fuse.0"),
        ("cls.1", "base_learner.fuse.1"),
        ("base_learnear.2", "base_learner.classifier"),  # published with this spelling
        *_REDUCTIONS,
        ("query_merge", "merge_query"),
        ("supp_merge", "merge_support"),
        *((f"transformer.{theirs}", f"matching.{ours}") for theirs, ours in MATCHING.pairs),
        *_ENSEMBLE,
    ),
    dropped=("clip_model",),
)
"""HDMNet and PI-CLIP; the frozen CLIP that the latter carries along is dropped."""

KEY_MAPS: dict[str, KeyMap] = {
    "pspnet": PSPNET,
    "pfenet": PFENET,
    "bam": BAM,
    "hdmnet": HDMNET,
}
"""The maps of whole networks, by the network's name."""


def load_published(
    network: Backbone | PretrainedModule, weights: str | Path | Mapping[str, Tensor]
) -> None:
    """Copies a published checkpoint into a backbone, a PSPNet or a decoder, strictly.

    The network is built with the checkpoint's options (see the table above); the weights are its
    file, no code in which is run, or its state dict.

    Raises:
        ModelError: If the file cannot be read, or its names or shapes are another network's.
    """
    own = key_map_of(network).to_own(state_dict_of(weights))
    load_strictly(network, own, what=f"this {getattr(network, 'name', 'backbone')}")


def export_published(network: Backbone | PretrainedModule) -> dict[str, Tensor]:
    """Returns the weights of a backbone, a PSPNet or a decoder under the published names.

    Raises:
        ModelError: If the network has layers that the published one has not, such as BAM's
            weights for any number of shots.
    """
    try:
        return key_map_of(network).to_published(network.state_dict())
    except ModelError as error:
        raise ModelError(
            f"This {getattr(network, 'name', 'backbone')} has layers that the published one has "
            "not, so it cannot be exported: BAM and HDMNet must be built with published_shots, "
            "HDMNet with three levels and two blocks too."
        ) from error


def key_map_of(network: Backbone | PretrainedModule) -> KeyMap:
    """Returns the key map of a network's published checkpoints; UsageError if there is none."""
    if isinstance(network, VGG16BN):
        return TORCHVISION_VGG
    if isinstance(network, Backbone):
        deep_stem = "stages.0.3.weight" in network.state_dict()
        return SEMSEG_RESNET if deep_stem else TORCHVISION_RESNET
    if network.name not in KEY_MAPS:
        raise UsageError(
            f"There is no key map for {network.name!r} here: choose one of {', '.join(KEY_MAPS)}."
        )
    return KEY_MAPS[network.name]


def state_dict_of(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state dict of a checkpoint without the prefix ``module.`` of parallel training.

    Raises:
        ModelError: If the file cannot be read, or does not hold tensors only.
    """
    tensors = weights if isinstance(weights, Mapping) else read_state_dict(Path(weights))
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def published_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the options of `HDMNet` that the shapes of a published state dict tell.

    Raises:
        ModelError: If it is not of a published HDMNet or PI-CLIP.
    """
    try:
        channels = weights["query_merge.0.weight"].shape[1] - 512
        classes = len(weights["base_learnear.2.weight"])
        stages = "layer1.0.conv1.weight", "layer3.22.conv1.weight"
    except KeyError as error:
        raise ModelError(
            f"The checkpoint has no {error.args[0]!r}: it is not of a published HDMNet or PI-CLIP."
        ) from error
    shots = weights["kshot_rw.0.weight"].shape[1] if "kshot_rw.0.weight" in weights else 1
    prior = {2: "imagenet", 2 + 2 * shots: "piclip"}.get(channels)
    if prior is None:
        raise ModelError(
            f"The checkpoint has {channels} prior channels for {shots} shots: published are 2 "
            "(HDMNet), 4 (PI-CLIP, 1 shot) and 12 (PI-CLIP, 5 shots)."
        )
    residual, deep = (stage in weights for stage in stages)
    return {
        "backbone": ("resnet101" if deep else "resnet50") if residual else "vgg16bn",
        "prior": prior,
        "base_classes": classes - 1,
        "published_shots": shots,
    }


def read_published(weights: str | Path | Mapping[str, Tensor]) -> HDMNet:
    """Builds the network of a published HDMNet or PI-CLIP, in evaluation mode.

    Weights and errors are those of `load_published`.
    """
    tensors = state_dict_of(weights)
    network = HDMNet(**published_options(tensors))
    load_published(network, tensors)
    return network.eval()
