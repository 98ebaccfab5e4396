"""Published HDMNet and PI-CLIP checkpoints, read and written: the map of names, both ways.

Both networks share their names; shapes tell them apart (:func:`published_options` reads them):

==============================  ================================================================
Channels of ``query_merge``     Network it fits
==============================  ================================================================
514                             HDMNet: ``HDMNet(prior="imagenet", published_shots=1 or 5)``
516                             PI-CLIP, 1 shot: ``HDMNet(prior="piclip", published_shots=1)``
524                             PI-CLIP, 5 shots: ``HDMNet(prior="piclip", published_shots=5)``
==============================  ================================================================

Knowingly dropped on reading, as they are no part of the decoder: every ``clip_model.*`` tensor that
PI-CLIP checkpoints carry along, that is the frozen CLIP itself and its leaked
``clip_model.visual.positional_embedding_new``, a resized copy that depends on the image seen last.
Every other name must be known, and none may be missing. What is written has no ``clip_model.*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from piclip.decoders.hdmnet import HDMNet
from piclip.decoders.key_map import KeyMap, read_checkpoint
from piclip.errors import ModelError

_BLOCK = (
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
        for theirs, ours in _BLOCK:
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
        *((f"layer{stage}", f"backbone.stages.{stage}") for stage in range(5)),
        ("ppm.features", "base_learner.pooling.branches"),
        ("cls.0", "base_learner.fuse.0"),
        ("cls.1", "base_learner.fuse.1"),
        ("base_learnear.2", "base_learner.classifier"),  # published with this spelling
        ("down_query", "reduce_query"),
        ("down_supp", "reduce_support"),
        ("query_merge", "merge_query"),
        ("supp_merge", "merge_support"),
        *((f"transformer.{theirs}", f"matching.{ours}") for theirs, ours in MATCHING.pairs),
        ("kshot_rw", "shot_weights.layers"),
        ("gram_merge", "ensemble.adjust"),
        ("cls_merge", "ensemble.merge"),
    ),
    dropped=("clip_model",),
)
"""The whole network."""


def published_options(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the arguments of :class:`HDMNet` for a published state dict, read off its shapes.

    Args:
        weights: The state dict, without ``module.`` before its names.

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
    """Builds the network of a published checkpoint, in evaluation mode.

    Args:
        weights: The ``.pth`` file (no code in it is run) or its state dict.

    Raises:
        ModelError: If the file cannot be read, or a name or shape is another network's.
    """
    if not isinstance(weights, Mapping):
        weights = read_checkpoint(weights)
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    network = HDMNet(**published_options(weights))
    network.load_weights(HDMNET.to_own(weights))
    network.eval()
    return network


def export_published(network: HDMNet) -> dict[str, Tensor]:
    """Returns a network's weights under the published names.

    Raises:
        ModelError: If it is not of the published form.
    """
    try:
        return HDMNET.to_published(network.state_dict())
    except ModelError as error:
        raise ModelError(
            "This HDMNet has layers that the published one has not, so it cannot be exported: it "
            "must be built with published_shots, three levels and two blocks."
        ) from error
