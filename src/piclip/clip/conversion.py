"""State dicts in OpenAI's layout (OpenAI's own, and open_clip's) as transformers models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from piclip.clip.settings import first_line
from piclip.clip.vit import ACTIVATIONS
from piclip.errors import ModelError, UsageError

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel

# Heads are 64 wide, but for open_clip's larger image towers; no shape tells, and each of these
# widths belongs to one published design (ViT-H, ViT-g, ViT-bigG, ViT-e).
_VISION_HEAD_WIDTHS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}

# Not weights, in whatever part: facts of OpenAI's archives that the shapes tell again, and the
# causal mask, which archives also have in every block.
_IGNORED = frozenset({"input_resolution", "context_length", "vocab_size", "attn_mask"})

# Parts that CLIP's custom-text variant in open_clip keeps below "text.".
_TEXT_PARTS = (
    "transformer.",
    "token_embedding.",
    "ln_final.",
    "positional_embedding",
    "text_projection",
    "attn_mask",
)

_SUPPORTED = "piclip reads CLIP models with a plain ViT image tower in OpenAI's layout"
_UNSUPPORTED_MARKS = {
    "visual.layer1.": "a CLIP with a ResNet image tower",
    "visual.trunk.": "a CLIP with a timm image tower (SigLIP, EVA, ConvNeXt)",
    "visual.blocks.": "a CLIP with an EVA image tower",
    "text.transformer.encoder.": "a CLIP with a Hugging Face text tower",
    "text_decoder.": "a CoCa model",
}

# Names below transformers'; a projection is x @ projection here and its transpose there.
_PROJECTIONS = ("visual.proj", "text_projection")
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # transformers' own spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TOWERS = {"visual.transformer": "vision_model", "transformer": "text_model"}
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and no progress bars of transformers inside; as they were afterwards.

    What piclip has to say about a model it says itself, in one sentence.
    """
    from transformers.utils import logging  # noqa: PLC0415 - slow to import

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def check_activation(hidden_act: str) -> None:
    """Refuse an activation that a CLIP does not have (UsageError)."""
    if hidden_act not in ACTIVATIONS:
        raise UsageError(
            f"The activation {hidden_act!r} is unknown: give quick_gelu (OpenAI's weights) or gelu "
            "(most of open_clip's)."
        )


def clip_from_state_dict(
    state: Mapping[str, Tensor], *, hidden_act: str = "quick_gelu"
) -> CLIPModel:
    """Build a transformers CLIP, on the CPU in evaluation mode, from weights in OpenAI's layout.

    The architecture is read from the shapes: patch and grid from the patch embedding and its
    positions, depth from the block numbers, heads from the width (64 channels each; 80, 88, 104
    and 112 in the image towers of open_clip's ViT-H, -g, -bigG and -e). Start and end of text are
    the last two tokens of the vocabulary, as in OpenAI's.

    Args:
        state: Parameters by name. Read are OpenAI's names (``visual.conv1.weight``,
            ``transformer.resblocks.0.attn.in_proj_weight``, ...) with or without the three integer
            scalars of its archives, a ``module.`` prefix, and open_clip's ``text.`` prefix. Any
            float type; the model is float32.
        hidden_act: Activation of the MLPs, ``"quick_gelu"`` or ``"gelu"``; no shape tells which.
            OpenAI's weights and open_clip's ``*-quickgelu`` models use ``"quick_gelu"``; all
            other open_clip models (LAION, DataComp) use ``"gelu"``. The wrong one runs without
            error and is less accurate.

    Raises:
        ModelError: If the weights are not a CLIP with a plain ViT image tower.
        UsageError: If ``hidden_act`` is neither of the two.
    """
    check_activation(hidden_act)
    state = _plain_names(state)
    _check_layout(state)
    from transformers import CLIPModel  # noqa: PLC0415 - slow to import

    try:
        config = _config(state, hidden_act)
        with quiet_transformers():
            return CLIPModel.from_pretrained(
                None, config=config, state_dict=_renamed(state), dtype=torch.float32
            ).eval()
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise ModelError(
            f"The weights do not fit together as one CLIP model ({first_line(error)}): "
            f"{_SUPPORTED}; check that the file is complete."
        ) from error


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors below OpenAI's names, without wrappers' prefixes and without non-weights."""
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    plain = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if not any(name.startswith("transformer.") for name in plain):
        below = tuple(f"text.{part}" for part in _TEXT_PARTS)
        plain = {n.removeprefix("text.") if n.startswith(below) else n: t for n, t in plain.items()}
    return {n: tensor for n, tensor in plain.items() if n.rpartition(".")[2] not in _IGNORED}


def _check_layout(state: Mapping[str, Tensor]) -> None:
    """Say in one sentence why weights of another kind cannot be read."""
    for mark, kind in _UNSUPPORTED_MARKS.items():
        if any(name.startswith(mark) for name in state):
            raise ModelError(
                f"The weights are {kind}, which the priors cannot use: {_SUPPORTED}; take for "
                "example OpenAI's ViT-B/16."
            )
    if any(name.startswith(("vision_model.", "text_model.")) for name in state):
        raise ModelError(
            "The weights are in transformers' layout: give the folder that holds the file and its "
            "config.json."
        )
    expected = _new_names(state).keys()
    if missing := sorted(expected - state.keys()):
        raise ModelError(
            f"The weights are no CLIP model that piclip knows: {missing[0]} is missing (with "
            f"{len(missing) - 1} more); {_SUPPORTED}, for example OpenAI's ViT-B/16."
        )
    if extra := sorted(state.keys() - expected):
        raise ModelError(
            f"The weights hold parts that a plain CLIP does not have, first {extra[0]} (with "
            f"{len(extra) - 1} more): {_SUPPORTED}, for example OpenAI's ViT-B/16."
        )


def _new_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The new names of all weights of a CLIP of this depth, with {} where three are in one."""
    names = dict(_NAMES)
    for tower, model in _TOWERS.items():
        for block in range(max(_depth(state, tower), 1)):
            old, new = f"{tower}.resblocks.{block}.", f"{model}.encoder.layers.{block}."
            for kind in ("weight", "bias"):
                names[f"{old}attn.in_proj_{kind}"] = f"{new}self_attn.{{}}_proj.{kind}"
                names |= {f"{old}{o}.{kind}": f"{new}{n}.{kind}" for o, n in _BLOCK_NAMES.items()}
    return names


def _depth(state: Mapping[str, Tensor], tower: str) -> int:
    """Number of transformer blocks below ``tower``."""
    prefix = f"{tower}.resblocks."
    blocks = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    # Counted, as the number in a name may be huge; where one is left out, its names are missing.
    return sum(block.isdigit() for block in blocks)


def _config(state: Mapping[str, Tensor], hidden_act: str) -> CLIPConfig:
    from transformers import CLIPConfig  # noqa: PLC0415 - slow to import

    vision_width, channels, patch, _ = state["visual.conv1.weight"].shape
    patches = state["visual.positional_embedding"].shape[0] - 1
    grid = round(patches**0.5)
    if grid * grid != patches:
        raise ValueError(f"{patches} position embeddings do not form a square grid")
    vocabulary, text_width = state["token_embedding.weight"].shape
    embed = state["text_projection"].shape[1]

    def blocks(tower: str, width: int, head_width: int = 64) -> dict[str, Any]:
        if width % head_width:
            raise ValueError(f"width {width} is not a multiple of {head_width} channels per head")
        return {
            "hidden_size": width,
            "intermediate_size": state[f"{tower}.resblocks.0.mlp.c_fc.weight"].shape[0],
            "projection_dim": embed,
            "num_hidden_layers": _depth(state, tower),
            "num_attention_heads": width // head_width,
            "hidden_act": hidden_act,
        }

    head_width = _VISION_HEAD_WIDTHS.get(vision_width, 64)
    return CLIPConfig(
        projection_dim=embed,
        vision_config=blocks("visual.transformer", vision_width, head_width)
        | {"num_channels": channels, "image_size": grid * patch, "patch_size": patch},
        text_config=blocks("transformer", text_width)
        | {
            "vocab_size": vocabulary,
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,  # as CLIP's tokenizer pads
        },
    )


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights below transformers' names, float32, with separate query, key and value."""
    names, renamed = _new_names(state), dict[str, Tensor]()
    for old, weights in state.items():
        new, tensor = names[old], weights.detach().to("cpu", torch.float32)
        if "{}" in new:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            renamed |= {new.format(letter): part.contiguous() for letter, part in parts}
        else:
            renamed[new] = tensor.T.contiguous() if old in _PROJECTIONS else tensor
    return renamed
