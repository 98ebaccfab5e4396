"""What a checkpoint says about its use: image size, blocks, normalisation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from piclip.errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPModel

SETTINGS_FILE = "piclip.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_TUPLES = ("mean", "std", "fusion", "fusion_many")
_MANY_SHOTS = 5
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
        fusion: Weights of the segmenter's four evidence maps, in the order of
            ``piclip.training_free.evidence.EVIDENCE``, and last their bias, for a single support;
            the supports adjust them.
        fusion_many: The same for five supports or more, which say more about the class; in
            between, the weights go from one to the other with the logarithm of the number.
        calibration: How firmly the supports' adjustment holds on to ``fusion``; 0 or more.
        ridge: Penalty of the linear discriminant between object and background patches.
        threshold: Least score of a pixel that belongs to a class.
    """

    image_size: int
    attention_blocks: int | None = None
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fusion: tuple[float, ...] = (0.6, 0.4, 0.0, 0.4, -1.0)
    fusion_many: tuple[float, ...] = (0.4, 0.6, 0.0, 0.8, -1.0)
    calibration: float = 10.0
    ridge: float = 0.01
    threshold: float = 0.5

    def fusion_for(self, shots: int) -> tuple[float, ...]:
        """Weights and bias to begin with when there are ``shots`` supports."""
        share = min(1.0, math.log(shots) / math.log(_MANY_SHOTS))
        pairs = zip(self.fusion, self.fusion_many, strict=True)
        return tuple(one + share * (many - one) for one, many in pairs)


def read_settings(folder: Path | None, model: CLIPModel) -> ModelSettings:
    """The folder's own settings, completed with the defaults for a model of photographs."""
    vision = model.config.vision_config
    patch, depth = vision.patch_size, vision.num_hidden_layers
    values: dict[str, Any] = {"image_size": PHOTO_SIZE // patch * patch}
    if folder is not None:
        for file in ("processor_config.json", "preprocessor_config.json"):
            found = read_json(folder / file) or {}
            found = found.get("image_processor", found)
            values |= {k: found[f"image_{k}"] for k in ("mean", "std") if f"image_{k}" in found}
        values |= read_json(folder / SETTINGS_FILE) or {}
    where = f"The settings in {folder} ({SETTINGS_FILE}, preprocessor_config.json)"
    try:
        values |= {key: tuple(map(float, values[key])) for key in _TUPLES if key in values}
        settings = ModelSettings(**values)
        valid = _are_valid(settings, patch, depth)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where} are not valid ({first_line(error)}): correct them.") from error
    if not valid:
        raise ModelError(
            f"{where} are not valid: image_size must be a multiple of the patch ({patch}), "
            f"attention_blocks null or 1 to {depth}, mean and std three numbers (std above 0), "
            f"fusion and fusion_many five numbers, calibration and ridge 0 or more, "
            f"threshold 0 to 1."
        )
    return settings


def _are_valid(settings: ModelSettings, patch: int, depth: int) -> bool:
    """Whether all values are in range; TypeError where one is no number."""
    blocks, colours = settings.attention_blocks, (*settings.mean, *settings.std)
    weights = (*settings.fusion, *settings.fusion_many)
    return (
        isinstance(settings.image_size, int)
        and settings.image_size > 0
        and settings.image_size % patch == 0
        and (blocks is None or (isinstance(blocks, int) and 1 <= blocks <= depth))
        and len(settings.mean) == len(settings.std) == 3
        and min(settings.std) > 0
        and len(settings.fusion) == len(settings.fusion_many) == 5
        and all(map(math.isfinite, (*colours, *weights)))
        and 0 <= settings.calibration < math.inf
        and 0 <= settings.ridge < math.inf
        and 0 <= settings.threshold <= 1
    )


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: download or copy it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is no JSON object: download or copy it again.")
    return content


def first_line(error: Exception) -> str:
    """What a library's error says, short enough to stand inside one sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]
