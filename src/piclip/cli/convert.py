"""``piclip convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument()],
    destination: Annotated[Path, typer.Argument()],
    tokenizer: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    activation: Annotated[str, typer.Option(metavar="NAME")] = "quick_gelu",
) -> None:
    """Write CLIP weights as a transformers folder, for --model.

    Options:
        source: OpenAI's .pt file, an open_clip state dict, a folder or a name.
        destination: The new folder.
        tokenizer: Folder or hub name of the tokenizer, for files without one. [default: OpenAI's,
            where the vocabulary has its size]
        activation: quick_gelu (OpenAI) or gelu (most of open_clip); weights files do not say.

    Examples:
        piclip convert ViT-B-16.pt clip-vit-b16
        piclip convert open_clip_model.safetensors my-clip --activation gelu
        piclip convert tiny.pt tiny-clip --tokenizer folder-with-tokenizer
    """
    from piclip.cli.console import people
    from piclip.clip.checkpoints import convert_checkpoint

    folder = convert_checkpoint(source, destination, hidden_act=activation, tokenizer=tokenizer)
    people().print(f"The model is in {folder}; use it with --model {folder}.")
