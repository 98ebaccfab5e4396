"""A tiny CLIP in OpenAI's layout with random weights, its tokenizer and its outputs."""

import torch
from torch.testing import assert_close

VISION, TEXT, EMBED, PATCH, VOCABULARY, CONTEXT = 64, 64, 32, 16, 193, 16


def tower_state(prefix, width, depth, generator):
    def random(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {}
    for block in range(depth):
        at = f"{prefix}transformer.resblocks.{block}."
        state |= {
            at + "attn.in_proj_weight": random(3 * width, width),
            at + "attn.in_proj_bias": random(3 * width),
            at + "attn.out_proj.weight": random(width, width),
            at + "attn.out_proj.bias": random(width),
            at + "mlp.c_fc.weight": random(2 * width, width),
            at + "mlp.c_fc.bias": random(2 * width),
            at + "mlp.c_proj.weight": random(width, 2 * width),
            at + "mlp.c_proj.bias": random(width),
        }
        for norm in ("ln_1", "ln_2"):
            state |= {f"{at}{norm}.weight": 1 + random(width), f"{at}{norm}.bias": random(width)}
    return state


def tiny_state(seed=0, vocabulary=VOCABULARY, patch=PATCH, vision=VISION):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {
        "visual.class_embedding": random(vision),
        "visual.conv1.weight": random(vision, 3, patch, patch),
        "visual.positional_embedding": random(1 + 9, vision),
        "visual.proj": random(vision, EMBED),
        "token_embedding.weight": random(vocabulary, TEXT),
        "positional_embedding": random(CONTEXT, TEXT),
        "text_projection": random(TEXT, EMBED),
        "logit_scale": torch.tensor(3.0),
    }
    for norm, width in (("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", TEXT)):
        state |= {f"{norm}.weight": 1 + random(width), f"{norm}.bias": random(width)}
    state |= tower_state("visual.", vision, 2, generator)
    return state | tower_state("", TEXT, 1, generator)


def tiny_tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = [("a", "b"), ("p", "h"), ("ab", "c</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == VOCABULARY
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)


def outputs(model):
    """Image and text features of one fixed input."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 48, 48, generator=generator)
    tokens = torch.tensor([[191, 5, 6, 192, 192], [191, 7, 8, 9, 192]])
    with torch.inference_mode():
        image = model.get_image_features(pixels).pooler_output
        return image, model.get_text_features(tokens).pooler_output


def assert_same_outputs(model, expected, atol=1e-6):
    for ours, theirs in zip(outputs(model), outputs(expected), strict=True):
        assert_close(ours, theirs, atol=atol, rtol=0)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


class Malicious:
    """Makes a file when it is unpickled with code allowed."""

    def __init__(self, folder):
        self.target = str(folder / "owned")

    def __reduce__(self):
        return open, (self.target, "w")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
