"""What a checkpoint says about its use: image size, blocks, colours, the scorer's constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from piclip.errors import ModelError
from piclip.io import documents

SETTINGS_FILE = "piclip.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_TUPLES = {"mean": float, "std": float, "blocks": int}
_RETIRED = ("calibration", "fusion", "fusion_many", "ridge")  # of folders of earlier versions
PHOTO_SIZE = 480  # pixels; where the reference runs CLIP


@dataclass(frozen=True)
class ModelSettings:
    """How a checkpoint wants to be used.

    Attributes:
        image_size: Side in pixels at which images are encoded; a multiple of the patch.
        attention_blocks: How many of the last blocks the refinement's attention is averaged
            over; None for two thirds of the depth, as published.
        mean: Mean of red, green and blue in [0, 1] that preprocessing subtracts.
        std: Standard deviation of the same that preprocessing divides by.
        blocks: Blocks whose tokens the contrast prior compares, counted from 1; None for the one
            after three quarters of the depth and the last.
        sharpness: tau of the contrast prior in units of 1 / standard deviation of the cosines
            between patches; above 0.
        text_weight: Most weight of the name's map against the supports, both as log-odds; 0 or
            more.
        text_level: The CLIP's own log-odds of the name at which it is half believed.
        presence: What presence is 0.5 at, on the scale of `piclip.training_free.presence`.
        lift: How far a class that is likely to be there is raised where all its scores are low, see
            `piclip.training_free.presence.lift`; 0 (not at all) or more.
        threshold: Least score of a pixel that belongs to a class.
    """

    image_size: int
    attention_blocks: int | None = None
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    blocks: tuple[int, ...] | None = None
    sharpness: float = 3.0
    text_weight: float = 0.6
    text_level: float = 0.0
    presence: float = 0.22
    lift: float = 0.0
    threshold: float = 0.5


def read_settings(
    folder: Path | None, default: ModelSettings, *, patch: int, depth: int
) -> ModelSettings:
    """The folder's own settings, completed with the default; a file of weights has no folder.

    The default is for a model of so many blocks (``depth``) with patches of ``patch`` pixels.

    Raises:
        ModelError: A file cannot be read, or a value is out of range.
    """
    values: dict[str, Any] = {}
    if folder is not None:
        for file in ("processor_config.json", "preprocessor_config.json"):
            found = read_json(folder / file) or {}
            found = found.get("image_processor", found)
            values |= {k: found[f"image_{k}"] for k in ("mean", "std") if f"image_{k}" in found}
        values |= read_json(folder / SETTINGS_FILE) or {}
    where = f"The settings in {folder} ({SETTINGS_FILE}, preprocessor_config.json)"
    try:
        settings = replace(default, **_typed(values))
        valid = _are_valid(settings, patch, depth)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where} are not valid ({first_line(error)}): correct them.") from error
    if not valid:
        raise ModelError(
            f"{where} are not valid: image_size is a multiple of the patch ({patch}), mean and std "
            f"are three numbers (std above 0), blocks lie in 1 to {depth}, sharpness is above 0, "
            f"text_weight and lift 0 or more, threshold 0 to 1."
        )
    return settings


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples; None means the default."""
    kept = {k: v for k, v in values.items() if k not in _RETIRED and v is not None}
    return kept | {key: tuple(map(_TUPLES[key], kept[key])) for key in _TUPLES if key in kept}


def _are_valid(settings: ModelSettings, patch: int, depth: int) -> bool:
    """Whether all values are in range; TypeError where one is no number."""
    attended, compared = settings.attention_blocks, settings.blocks
    numbers = (*settings.mean, *settings.std, settings.text_level, settings.presence)
    return (
        isinstance(settings.image_size, int)
        and settings.image_size > 0
        and settings.image_size % patch == 0
        and (attended is None or (isinstance(attended, int) and 1 <= attended <= depth))
        and (compared is None or (bool(compared) and all(1 <= n <= depth for n in compared)))
        and len(settings.mean) == len(settings.std) == 3
        and min(settings.std) > 0
        and all(map(math.isfinite, numbers))
        and 0 < settings.sharpness < math.inf
        and 0 <= settings.text_weight < math.inf
        and 0 <= settings.lift < math.inf
        and 0 <= settings.threshold <= 1
    )


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file."""
    try:
        content = documents.read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: download or copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is no JSON object: download or copy it again.")
    return content


def first_line(error: Exception) -> str:
    """What a library's error says, short enough to stand inside one sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]
