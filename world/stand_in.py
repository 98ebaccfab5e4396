"""A stand-in for CLIP on photographs: a ViT that classifies ImageNet, its classes for texts.

The image side is a real ViT, exactly. The text of a class of VOC is the mean row of the classifier
over the ImageNet classes that show it, and the text of its absence the opposite of that. This
flatters texts: the network was trained to tell these classes apart, novel ones included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from piclip.clip.checkpoints import find_checkpoint, load_weights
from piclip.clip.encoder import Encoder
from piclip.clip.prompts import BACKGROUND, FOREGROUND
from piclip.clip.towers import VisualTower
from piclip.errors import ModelError, UsageError

LOGIT_SCALE = 8.0
"""Factor on cosines; CLIP's 100 is meant for cosines that hardly differ, the classifier's do."""

_BIRDS = (*range(7, 25), *range(80, 101), *range(127, 147))
_DOGS = range(151, 269)
IMAGENET: dict[str, Sequence[int]] = {
    "aeroplane": (404, 895),
    "bicycle": (444, 671),
    "bird": _BIRDS,
    "boat": (472, 484, 554, 576, 625, 780, 814, 871, 914),
    "bottle": (440, 737, 898, 907),
    "bus": (654, 779, 874),
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "cat": range(281, 286),
    "chair": (423, 559, 765),
    "cow": (345, 346),
    "diningtable": (532,),
    "dog": _DOGS,
    "horse": (339,),
    "motorbike": (665, 670),
    "person": (610, 834, 981, 982, 983),
    "pottedplant": (738,),
    "sheep": (348, 349),
    "sofa": (831,),
    "train": (466, 547, 705, 820),
    "tvmonitor": (664, 782, 851),
}
"""Classes of ImageNet, counted from 0, that show each class of VOC."""

# Where the parts of a block are in a CLIP and in a ViT of transformers.
_PARTS = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.o_proj",
    "layer_norm1": "layernorm_before",
    "layer_norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class StandIn(Encoder):
    """An encoder whose image side is a classifier's and whose texts are its rows."""

    @classmethod
    def of(cls, name_or_folder: str) -> StandIn:
        """Reads a ``ViTForImageClassification`` of ImageNet's 1000 classes, by name or folder.

        Raises:
            ModelError: It cannot be read, or is none.
        """
        from transformers import ViTForImageClassification

        folder = find_checkpoint(name_or_folder, tokenizer=False)
        classifier, missing = load_weights(ViTForImageClassification, folder)
        if missing or classifier.config.num_labels != 1000:
            raise ModelError(f"{name_or_folder} is no ViT that classifies ImageNet's 1000 classes.")
        tower = VisualTower.from_pretrained(name_or_folder, device="cpu")
        model: Any = _in_the_shape_of_clip(classifier)
        tokenizer: Any = None  # names are looked up
        encoder = cls(model, tokenizer, settings=tower.settings, device="cpu", dtype="float32")
        encoder.source = f"stand-in: {name_or_folder}"
        return encoder

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Rows for texts by the default templates, whose wordings begin with a class of VOC.

        Raises:
            UsageError: Another template, or another class.
        """
        return torch.stack([self._row(text) for text in texts])

    def _row(self, text: str) -> Tensor:
        for template, sign in ((FOREGROUND, 1.0), (BACKGROUND, -1.0)):
            before = template.removesuffix("{}")
            for name, numbers in IMAGENET.items():
                if f"{text} ".startswith(f"{before}{name} "):
                    rows: Tensor = self.model.rows
                    return sign * F.normalize(rows[list(numbers)].mean(0), dim=0)
        raise UsageError(f"The stand-in knows the classes of VOC alone and cannot read {text!r}.")


def _in_the_shape_of_clip(classifier: Any) -> Any:  # noqa: ANN401 - transformers' models
    """A ``CLIPModel`` with the classifier's image tower and no text tower."""
    from transformers import CLIPConfig, CLIPModel

    config = classifier.config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "image_size", "patch_size", "hidden_act", "layer_norm_eps")  # fmt: skip
    model = CLIPModel(
        CLIPConfig(
            vision_config={name: getattr(config, name) for name in names},
            text_config={"num_hidden_layers": 0, "hidden_size": 8},
            projection_dim=config.hidden_size,
        )
    )
    vit, vision = classifier.vit, model.vision_model
    positions = vit.embeddings.position_embeddings[0].clone()
    patches = vit.embeddings.patch_embeddings.projection
    positions[1:] += patches.bias  # CLIP's patches have none
    weights = {
        "embeddings.class_embedding": vit.embeddings.cls_token[0, 0],
        "embeddings.position_embedding.weight": positions,
        "embeddings.patch_embedding.weight": patches.weight,
        **_prefixed("post_layernorm", vit.layernorm),
    }
    for number, layer in enumerate(vit.layers):
        for ours, theirs in _PARTS.items():
            weights |= _prefixed(f"encoder.layers.{number}.{ours}", layer.get_submodule(theirs))
    vision.pre_layrnorm = nn.Identity()
    vision.load_state_dict(weights)
    rows = classifier.classifier.weight.detach()
    with torch.no_grad():
        model.visual_projection.weight.copy_(torch.eye(config.hidden_size))
        model.logit_scale.fill_(LOGIT_SCALE).log_()
    model.text_model, model.text_projection = nn.Identity(), nn.Identity()
    model.register_buffer("rows", rows - rows.mean(0))
    return model


def _prefixed(name: str, module: nn.Module) -> Mapping[str, Tensor]:
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}
