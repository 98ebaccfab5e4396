"""A fitted segmenter on disk: ``memories.safetensors`` and ``segmenter.json`` in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from piclip.errors import ModelError
from piclip.io.documents import check_regular, read_json
from piclip.io.outputs import atomic_path, ensure_folder, write_json
from piclip.segmenter import FewShotSegmenter

FORMAT = 1
TENSORS, INDEX = "memories.safetensors", "segmenter.json"


def save_memories(segmenter: FewShotSegmenter, folder: Path) -> Path:
    """Writes the classes' memories and which model they belong to.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    from safetensors.torch import save_file  # noqa: PLC0415

    ensure_folder(folder)
    tensors = {
        f"{number}.{field}": tensor.contiguous().cpu()
        for number, memory in enumerate(segmenter.memories.values())
        for field, tensor in segmenter.scorer.tensors(memory).items()
    }
    with atomic_path(folder / TENSORS) as path:
        save_file(tensors, path)
    index = {
        "format": FORMAT,
        **segmenter.scorer.identity(),
        "classes": list(segmenter.class_names),
    }
    write_json(index, folder / INDEX)
    return folder


def load_segmenter(folder: Path, *, device: str | torch.device, dtype: str) -> FewShotSegmenter:
    """Reads a folder that `save_memories` wrote and loads its model.

    Raises:
        ModelError: Something is missing or does not fit together.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        index = read_json(folder / INDEX)
        check_regular(folder / TENSORS)
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
        segmenter = FewShotSegmenter.from_pretrained(
            index["model"], clip=index.get("clip"), device=device, dtype=dtype
        )
        identity = segmenter.scorer.identity()
        if index["format"] != FORMAT or any(index[key] != identity[key] for key in identity):
            raise ModelError(
                f"The segmenter in {folder} was saved by another version or for another model; "
                f"fit it again."
            )
        for number, name in enumerate(index["classes"]):
            own = _under(f"{number}.", tensors)
            segmenter.memories[name] = segmenter.scorer.restore(name, own)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{folder} holds no complete saved segmenter ({INDEX} and {TENSORS}); save it again."
        ) from error
    return segmenter


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
