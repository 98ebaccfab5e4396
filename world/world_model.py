"""The untrained built-in CLIP and its tokenizer: sizes, vocabulary, initialisation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from piclip.datasets.scenes.glyphs import CLASS_NAMES

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.modeling_clip import CLIPAttention

IMAGE_SIZE = 128
PATCH = 8
CONTEXT = 32
ATTENTION_BLOCKS = 4
"""Last blocks whose attention refinement averages: two thirds of the depth, as published."""
_WORDS = """
a an the of in on with without no and photo picture image drawing scene shows there is
containing nothing but small large one two three four ,
"""
FUNCTION_WORDS = tuple(_WORDS.split())


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the world's captions is one token.

    Any other text is spelled out in bytes, so every string can be encoded.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words = [*CLASS_NAMES, *FUNCTION_WORDS]
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        # Named beforehand, the last letters of words get their numbers in this order; otherwise
        # ties between merges fall anew in every process, and a resumed run swaps tokens.
        special_tokens=[b + "</w>" for b in bytes_],
        initial_alphabet=bytes_,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator([w for w in words for _ in range(2)], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = bytes_ + [b + "</w>" for b in bytes_] + ["".join(pair) for pair in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def build_model(tokenizer: CLIPTokenizer, seed: int) -> CLIPModel:
    """A small CLIP, initialised so that it leaves the plateau at chance within minutes.

    Three departures from CLIP's own initialisation matter on so little data: word embeddings of
    unit size; attention that starts as "look at what is like me" (mimetic initialisation, Trockman
    and Kolter 2023), which also keeps the late blocks' attention usable for PIR; and sinusoidal
    positions.
    """
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    config = CLIPConfig(
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
            "hidden_act": "gelu",
        },
        text_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        projection_dim=128,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        _initialise_words(model, tokenizer)
        _initialise_patches(model)
        for layer in model.vision_model.encoder.layers:
            _initialise_attention(layer.self_attn)
    return model


def _initialise_words(model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    table = model.text_model.embeddings.token_embedding.weight
    table.normal_(std=1.0)
    for word in FUNCTION_WORDS:
        table[tokenizer.encode(word, add_special_tokens=False)] *= 0.3
    table[[tokenizer.bos_token_id, tokenizer.eos_token_id]] *= 0.1


def _initialise_patches(model: CLIPModel) -> None:
    embeddings = model.vision_model.embeddings
    embeddings.patch_embedding.weight.normal_(std=(3 * PATCH**2) ** -0.5)
    side = IMAGE_SIZE // PATCH
    table = embeddings.position_embedding.weight
    table[0] = 0.0
    table[1:] = 0.5 * _sinusoids(side, table.shape[1])


def _sinusoids(side: int, width: int) -> Tensor:
    """Two-dimensional sine and cosine positions, (side * side, width)."""
    frequencies = torch.pi / 2 ** torch.linspace(0, 5, width // 4)
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


def _initialise_attention(attention: CLIPAttention) -> None:
    width = attention.embed_dim

    def noise() -> Tensor:
        sample: Tensor = torch.randn(width, width) / width**0.5
        return sample

    look = torch.linalg.qr(torch.randn(width, width)).Q.T
    move = torch.linalg.qr(torch.randn(width, width)).Q.T
    gain = 0.7**0.5
    attention.q_proj.weight.copy_(gain * (look + 0.5 * noise()))
    attention.k_proj.weight.copy_(gain * (look + 0.5 * noise()))
    attention.v_proj.weight.copy_(move)
    attention.out_proj.weight.copy_(-0.4 * move.T + 0.4 * noise())
