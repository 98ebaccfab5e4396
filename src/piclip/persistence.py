"""A fitted segmenter on disk: ``memories.safetensors`` and ``segmenter.json`` in one folder."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from piclip.errors import ModelError
from piclip.outputs import atomic_path, ensure_folder, write_json
from piclip.segmenter import FewShotSegmenter
from piclip.supports import ClassMemory

FORMAT = 1
TENSORS, INDEX = "memories.safetensors", "segmenter.json"
_TENSOR_FIELDS = tuple(field.name for field in fields(ClassMemory) if field.name != "name")


def save_memories(segmenter: FewShotSegmenter, folder: Path) -> Path:
    """Writes the classes' memories and the name of their CLIP.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    from safetensors.torch import save_file  # noqa: PLC0415

    ensure_folder(folder)
    tensors = {
        f"{number}.{field}": getattr(memory, field).contiguous().cpu()
        for number, memory in enumerate(segmenter.memories.values())
        for field in _TENSOR_FIELDS
    }
    with atomic_path(folder / TENSORS) as path:
        save_file(tensors, path)
    index = {
        "format": FORMAT,
        "model": segmenter.encoder.source,
        "width": segmenter.encoder.embed_dim,
        "classes": list(segmenter.class_names),
    }
    write_json(index, folder / INDEX)
    return folder


def load_segmenter(folder: Path, *, device: str | torch.device, dtype: str) -> FewShotSegmenter:
    """Reads a folder that `save_memories` wrote and loads its CLIP.

    Raises:
        ModelError: Something is missing or does not fit together.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
        segmenter = FewShotSegmenter.from_pretrained(index["model"], device=device, dtype=dtype)
        if index["format"] != FORMAT or index["width"] != segmenter.encoder.embed_dim:
            raise ModelError(
                f"The segmenter in {folder} was saved by another version or for another model; "
                f"fit it again."
            )
        for number, name in enumerate(index["classes"]):
            parts = {field: tensors[f"{number}.{field}"] for field in _TENSOR_FIELDS}
            moved = {field: value.to(segmenter.encoder.device) for field, value in parts.items()}
            segmenter.memories[name] = ClassMemory(name=name, **moved)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder} holds no complete saved segmenter ({INDEX} and {TENSORS}); save it again."
        ) from error
    return segmenter
