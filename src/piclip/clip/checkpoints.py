"""Loading, converting and saving CLIP checkpoints.

A checkpoint on disk is a transformers folder: ``config.json``, ``model.safetensors``, the
tokenizer's files, and optionally ``piclip.json`` with the settings in `ModelSettings`.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from piclip.clip.conversion import check_activation, clip_from_state_dict, quiet_transformers
from piclip.clip.hub import has_tokenizer, has_weights, hub_folder
from piclip.clip.settings import (
    PHOTO_SIZE,
    SETTINGS_FILE,
    ModelSettings,
    first_line,
    read_json,
    read_settings,
)
from piclip.clip.weight_files import read_state_dict
from piclip.errors import ModelError, OutputError, UsageError
from piclip.io.decoding import reason
from piclip.io.outputs import ensure_folder

if TYPE_CHECKING:
    from typing import Unpack

    from transformers import CLIPModel, CLIPTokenizer, PreTrainedModel

    from piclip.clip.hub import HubOptions

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"
OPENAI_VOCABULARY = 49408  # tokens; every English CLIP of OpenAI and open_clip shares them

_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP ready to encode: float32 model in evaluation mode, its tokenizer, its settings."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    settings: ModelSettings


def load_clip(
    name_or_path: str | Path,
    *,
    hidden_act: str = "quick_gelu",
    tokenizer: str | Path | None = None,
    **hub: Unpack[HubOptions],
) -> LoadedClip:
    """Load a CLIP with a plain ViT image tower from wherever it is, in float32 on the CPU.

    Args:
        name_or_path: One of

            - ``"builtin"``, the small model in the package;
            - a transformers folder;
            - a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file in OpenAI's layout: OpenAI's
              own archives, plain state dicts, open_clip's checkpoints;
            - a name on the hub, ``openai/clip-vit-base-patch16`` for photographs. A model in the
              hub's local cache is used without asking the hub again.
        hidden_act: Activation of a weights *file* (see `clip_from_state_dict`): files do not
            say; folders and the hub do, and then it is not used.
        tokenizer: Folder or hub name of the tokenizer. Default: the checkpoint's own; for a weights
            file, which has none, OpenAI's where the vocabulary has OpenAI's size.
        hub: As in `piclip.clip.hub.hub_folder`; ``revision`` is the model's, not the tokenizer's.

    Raises:
        ModelError: If the model is unknown, cannot be downloaded, is damaged or is no such CLIP.
        UsageError: If ``hidden_act`` is unknown.
    """
    check_activation(hidden_act)
    path = find_checkpoint(name_or_path, **hub)
    if path.is_file():
        model = clip_from_state_dict(read_state_dict(path), hidden_act=hidden_act)
        tokenizer = tokenizer or _default_tokenizer(model, path)
    else:
        model = _load_model(path)
        tokenizer = tokenizer or path
    vision = model.config.vision_config
    patch = vision.patch_size
    # A model of photographs sees them as the published priors do.
    default = ModelSettings(image_size=PHOTO_SIZE // patch * patch)
    folder = path if path.is_dir() else None
    settings = read_settings(folder, default, patch=patch, depth=vision.num_hidden_layers)
    words = _tokenizer_folder(tokenizer, **hub | {"revision": None})
    return LoadedClip(model, _load_tokenizer(words, model), settings)


def find_checkpoint(
    name_or_path: str | Path,
    *,
    weights: bool = True,
    tokenizer: bool = True,
    **hub: Unpack[HubOptions],
) -> Path:
    """The file or folder of a checkpoint on this computer, downloaded if it is one of the hub.

    What it is may be all that `load_clip` takes; the rest is as in `piclip.clip.hub.hub_folder`.

    Raises:
        ModelError: If the model is unknown or cannot be downloaded.
    """
    path = BUILTIN_FOLDER if name_or_path == "builtin" else Path(name_or_path).expanduser()
    try:
        if path.is_file() or path.is_dir():
            return path
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {reason(error)}; check the name of the model.") from error
    name = str(name_or_path)
    if name == "builtin":
        raise ModelError(
            "The built-in model is missing from this installation: install piclip again, or use "
            "openai/clip-vit-base-patch16."
        )
    looks_like_path = name.startswith((".", "/", "~", "\\")) or name.endswith(_WEIGHT_SUFFIXES)
    if isinstance(name_or_path, Path) or looks_like_path:
        raise ModelError(f"There is no file or folder {name}: check the path of the model.")
    return hub_folder(name, weights=weights, tokenizer=tokenizer, **hub)


def load_weights(
    model_class: Any,  # noqa: ANN401 - transformers' models have no type of their own
    folder: Path,
    **options: object,
) -> tuple[Any, list[str]]:
    """A model of transformers from a folder, with its weights in float32; no code there is run.

    Args:
        model_class: A class of transformers.
        folder: With ``config.json`` and the weights.
        options: More arguments of ``from_pretrained``.

    Returns:
        The model in evaluation mode, and the sorted names of the weights that the folder lacks.

    Raises:
        ModelError: If there are no weights, or they are damaged or do not fit the configuration.
    """
    if not has_weights(folder):
        raise ModelError(
            f"{folder} has no complete weights (model.safetensors): download or convert the model "
            "again."
        )
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                weights_only=True,
                **options,
            )
    # Damaged weights make the readers fail in any way: SafetensorError, OSError, RuntimeError, ...
    except Exception as error:
        raise ModelError(
            f"The weights in {folder} cannot be read ({first_line(error)}): download or copy the "
            "model again."
        ) from error
    return model.eval(), sorted(report["missing_keys"])


def save_clip(loaded: LoadedClip, folder: str | Path) -> None:
    """Write a checkpoint as a transformers folder; as `save_model`."""
    save_model(loaded.model, loaded.tokenizer, loaded.settings, folder)


def save_model(
    model: PreTrainedModel,
    tokenizer: CLIPTokenizer | None,
    settings: ModelSettings,
    folder: str | Path,
) -> None:
    """Write a model as a transformers folder, complete or not at all, in its own float type.

    Args:
        model: A CLIP, or another image tower.
        tokenizer: Of a CLIP.
        settings: For ``piclip.json``.
        folder: Where to; must not exist yet, or be empty (UsageError).

    Raises:
        OutputError: If it cannot be written.
    """
    folder = Path(folder).expanduser()
    check_destination(folder)
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        with quiet_transformers():
            model.save_pretrained(part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
        content = json.dumps(asdict(settings), indent=2)
        (part / SETTINGS_FILE).write_text(content + "\n", encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    # safetensors reports a full disk with an error of its own.
    except Exception as error:
        raise OutputError(
            f"The model cannot be written to {folder} ({error}): check the free space and the "
            "rights there, or choose another folder."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    hidden_act: str = "quick_gelu",
    tokenizer: str | Path | None = None,
) -> Path:
    """Write any checkpoint that `load_clip` reads as a self-contained transformers folder.

    The folder, a new or empty one, includes the tokenizer, so it works offline and in plain
    transformers (``CLIPModel.from_pretrained``, ``CLIPTokenizer.from_pretrained``). It is returned.

    Raises:
        UsageError: If the destination is not empty or lies in the source.
        ModelError: If the source cannot be loaded.
        OutputError: If the folder cannot be written.
    """
    folder = Path(destination).expanduser()
    check_destination(folder, source)  # before minutes of loading
    save_clip(load_clip(source, hidden_act=hidden_act, tokenizer=tokenizer), folder)
    return folder


def check_destination(folder: Path, source: str | Path | None = None) -> None:
    """Refuse a folder that a model cannot be written to, and make the folder that it lies in.

    The model is read from ``source``; a name on the hub is no folder here.

    Raises:
        UsageError: If it holds something, or lies in the source.
        OutputError: If the folder that it lies in cannot be written to.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: choose a new folder for the model.")
    read = None if source is None or str(source) == "builtin" else Path(source).expanduser()
    if read is not None and read.is_dir() and read.resolve() in folder.resolve().parents:
        raise UsageError(
            f"{folder} would lie in {source}, the model that is read: choose another folder."
        )
    ensure_folder(folder.parent)


def _load_model(folder: Path) -> CLIPModel:
    """The model in a transformers folder, float32."""
    config = read_json(folder / "config.json")
    if config is None:
        raise ModelError(
            f"{folder} has no config.json, so it is no transformers folder: give a weights file in "
            "it, or make a folder with `piclip convert`."
        )
    if "decoder" in config:
        raise ModelError(
            f"{folder} holds a trained decoder ({config['decoder']}), not a CLIP: give the folder "
            "of a CLIP; `piclip segment`, `annotate` and `evaluate` take decoders."
        )
    if config.get("model_type") != "clip":
        raise ModelError(
            f"{folder} holds a model of type {config.get('model_type')!r}, not a CLIP: use a CLIP "
            "with a ViT image tower such as openai/clip-vit-base-patch16."
        )
    from transformers import CLIPModel  # noqa: PLC0415 - slow to import

    model, missing = load_weights(CLIPModel, folder)
    if missing:
        raise ModelError(
            f"The weights in {folder} are no complete CLIP: {missing[0]} is missing (with "
            f"{len(missing) - 1} more); use a model with both the image and the text tower."
        )
    return model


def _default_tokenizer(model: CLIPModel, weights: Path) -> str:
    vocabulary = model.config.text_config.vocab_size
    if vocabulary != OPENAI_VOCABULARY:
        raise ModelError(
            f"{weights} has a vocabulary of its own ({vocabulary} tokens) and no tokenizer: give "
            "the folder of its tokenizer with tokenizer=... (--tokenizer)."
        )
    return OPENAI_TOKENIZER


def _tokenizer_folder(source: str | Path, **hub: Unpack[HubOptions]) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    try:
        return hub_folder(str(source), weights=False, **hub)
    except ModelError as error:
        raise ModelError(
            f"The tokenizer {source} is neither a folder here nor available from the hub: give a "
            "folder with tokenizer.json (or vocab.json and merges.txt) with tokenizer=... "
            f"(--tokenizer), or run `hf download {OPENAI_TOKENIZER}` once with a network."
        ) from error


def _load_tokenizer(folder: Path, model: CLIPModel) -> CLIPTokenizer:
    if not has_tokenizer(folder):
        raise ModelError(
            f"{folder} has no tokenizer: copy the model's tokenizer.json (or vocab.json and "
            "merges.txt) there, or name another with tokenizer=... (--tokenizer)."
        )
    from transformers import CLIPTokenizer  # noqa: PLC0415 - slow to import

    try:
        with quiet_transformers():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    # A damaged file makes the readers fail in any way: JSONDecodeError, KeyError, ...
    except Exception as error:
        raise ModelError(
            f"The tokenizer in {folder} cannot be read ({first_line(error)}): download or copy it "
            "again."
        ) from error
    text = model.config.text_config
    # 2 is transformers' mark of its first CLIP folders: pool at the highest token, OpenAI's rule.
    expected_end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if len(tokenizer) > text.vocab_size or tokenizer.eos_token_id != expected_end:
        raise ModelError(
            f"The tokenizer in {folder} does not belong to the model ({len(tokenizer)} tokens, end "
            f"of text {tokenizer.eos_token_id}; the model has {text.vocab_size} and "
            f"{expected_end}): give the model's own with tokenizer=... (--tokenizer)."
        )
    tokenizer.model_max_length = text.max_position_embeddings
    return tokenizer
