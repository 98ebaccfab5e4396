"""The decoders by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from piclip.decoders.base import FewShotDecoder
from piclip.decoders.pretrained import CONFIG, buildable, read_config
from piclip.errors import ModelError, UsageError

DECODERS: dict[str, str] = {"pfenet": "PFENet", "bam": "BAM", "hdmnet": "HDMNet"}


def decoder_class(name: str) -> type[FewShotDecoder]:
    """Returns the class of a decoder: ``pfenet``, ``bam`` or ``hdmnet``.

    Raises:
        UsageError: If there is no such decoder; it lists the names.
    """
    if name not in DECODERS:
        raise UsageError(f"There is no decoder {name!r}: choose one of {', '.join(DECODERS)}.")
    found: type[FewShotDecoder] = getattr(import_module(f"piclip.decoders.{name}"), DECODERS[name])
    return found


def build_decoder(name: str, **options: Any) -> FewShotDecoder:  # noqa: ANN401 - of many kinds
    """Builds a decoder with random weights.

    Args:
        name: ``pfenet``, ``bam`` or ``hdmnet``.
        options: Fields of its `piclip.decoders.base.DecoderOptions`.

    Raises:
        UsageError: If there is no such decoder, it does not take an option (it lists them), or not
            its value.
    """
    with buildable(name, str(options)):
        return decoder_class(name)(**options)


def load_decoder(folder: str | Path) -> FewShotDecoder:
    """Reads a decoder from a folder written by ``save_pretrained``; it is in evaluation mode.

    Raises:
        ModelError: If the folder does not hold a decoder, or its options or weights are damaged.
        UsageError: If the decoder has no option of a name in the folder, or not its value.
    """
    name = read_config(Path(folder)).get("decoder")
    if name not in list(DECODERS):  # JSON may hold what cannot be a key
        raise ModelError(
            f"{folder} does not hold a few-shot decoder (its config.json names {name!r}): give a "
            f"folder of {', '.join(DECODERS)}."
        )
    where = str(Path(folder) / CONFIG)
    with buildable(name, f"in {where}", ModelError, "download or copy the folder again"):
        loaded: FewShotDecoder = decoder_class(name).from_pretrained(folder)
    return loaded
