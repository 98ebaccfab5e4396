"""Networks that fit published HDMNet and PI-CLIP checkpoints.

Both share their names; shapes tell them apart (:func:`published_options` reads them):

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
Every other name must be known, and none may be missing. What
:func:`piclip.decoders.checkpoints.export_published` writes has no ``clip_model.*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from piclip.decoders.checkpoints import load_published
from piclip.decoders.hdmnet import HDMNet
from piclip.decoders.key_map import state_dict_of
from piclip.errors import ModelError


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
    tensors = state_dict_of(weights)
    network = HDMNet(**published_options(tensors))
    load_published(network, tensors)
    network.eval()
    return network
