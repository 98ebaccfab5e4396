"""Models by their name on the Hugging Face hub: from the local cache, else downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from piclip.clip.settings import first_line
from piclip.errors import ModelError
from piclip.io.documents import read_json

_SMALL_FILES = (
    "config.json", "piclip.json", "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt",
)  # fmt: skip
_SHARDS = "model.safetensors.index.json"

# One form of the weights is enough; safetensors cannot carry code, so it comes first, and where a
# repository has only the pickle, transformers reads it with weights_only=True.
_WEIGHT_FORMS = (
    ("model.safetensors", ("model.safetensors",)),
    (_SHARDS, (_SHARDS, "model-*.safetensors")),
    ("pytorch_model.bin", ("pytorch_model.bin",)),
)
_PATIENCE = 10.0  # seconds that the hub has to answer the first request


class HubOptions(TypedDict, total=False):
    """How a model of the hub is found; see `hub_folder`."""

    revision: str | None
    cache_dir: str | Path | None
    local_files_only: bool


def hub_folder(
    name: str,
    *,
    weights: bool = True,
    tokenizer: bool = True,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a hub model in the hub's cache; downloads what the cache does not have.

    A model that is complete in the cache is used as it is, without any request, so that results do
    not change under the user and work goes on offline. Of the weights only one form is downloaded.

    Args:
        name: Name on the hub, such as ``openai/clip-vit-base-patch16``.
        weights: Whether the weights are wanted; otherwise the tokenizer and settings are enough.
        tokenizer: Whether the model is of use only with a tokenizer; vision models have none.
        revision: Branch, tag or commit; by default the hub's main branch.
        cache_dir: Where models from the hub are kept; by default the hub's own cache.
        local_files_only: Whether to look in the cache alone, without a request.

    Raises:
        ModelError: If the hub does not know the name, cannot be reached, or has no model in
            transformers' layout below it.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - slow to import
    from huggingface_hub import errors as hub  # noqa: PLC0415

    try:
        if cached := _cached_folder(
            name, revision, cache_dir, weights=weights, tokenizer=tokenizer
        ):
            return cached
        if local_files_only:
            raise ModelError(
                f"{name} is not in the local cache, and only local files are to be used: leave "
                f"local_files_only out, or run `hf download {name}` once with a network."
            )
        # This request does not retry: without a network the answer comes at once.
        info = HfApi().model_info(name, revision=revision, timeout=_PATIENCE)
        patterns = _wanted(name, {entry.rfilename for entry in info.siblings or ()}, weights)
        return Path(
            snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=patterns)
        )
    except hub.HFValidationError as error:
        raise ModelError(
            f"There is no model {name!r}: it is neither a file or folder here nor a possible name "
            'on the hub; use "builtin", a path, or a name such as openai/clip-vit-base-patch16.'
        ) from error
    except hub.GatedRepoError as error:
        raise ModelError(
            f"The hub gives {name} only to those who asked: accept its terms on "
            f"https://huggingface.co/{name} and log in with `hf auth login`."
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(
            f"The hub has no revision {revision!r} of {name}: give a branch, tag or commit that "
            f"https://huggingface.co/{name} lists, or none."
        ) from error
    except hub.RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub knows no model {name!r} (or it is private), and there is no such file or "
            'folder here; check the spelling, or use "builtin" or openai/clip-vit-base-patch16.'
        ) from error
    except hub.HfHubHTTPError as error:
        raise ModelError(
            f"The hub could not deliver {name} (HTTP {error.response.status_code}): try again "
            'later, or use the model "builtin", which needs no network.'
        ) from error
    # The network's own errors, and OSError of offline mode, missing cache entries and full disks.
    except (hub.HTTPError, OSError) as error:
        offline = isinstance(error, hub.OfflineModeIsEnabled)
        reason = "HF_HUB_OFFLINE is set" if offline else first_line(error)
        raise ModelError(
            f"{name} is not in the local cache and cannot be downloaded ({reason}): use the model "
            f'"builtin", which works offline, or run `hf download {name}` once with a network.'
        ) from error


def _cached_folder(
    name: str,
    revision: str | None,
    cache_dir: str | Path | None,
    *,
    weights: bool,
    tokenizer: bool,
) -> Path | None:
    """The model's folder in the hub's cache if everything wanted is there."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import

    for file in ("config.json", *(["tokenizer_config.json"] if tokenizer else [])):
        cached = try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=revision)
        if isinstance(cached, str):
            folder = Path(cached).parent
            lacks_words = tokenizer and not has_tokenizer(folder)
            return None if lacks_words or (weights and not has_weights(folder)) else folder
    return None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer; transformers would invent an empty one without a word."""
    return (folder / "tokenizer.json").is_file() or (
        (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds all weights that its configuration needs."""
    if (folder / _SHARDS).is_file():
        try:
            index = read_json(folder / _SHARDS)
            return all((folder / shard).is_file() for shard in index["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False
    return any((folder / mark).is_file() for mark, _ in _WEIGHT_FORMS)


def _wanted(name: str, files: set[str], weights: bool) -> list[str]:
    """Names of the files to download out of those that the hub has."""
    if not weights:
        return list(_SMALL_FILES)
    for mark, patterns in _WEIGHT_FORMS:
        if mark in files and "config.json" in files:
            return [*_SMALL_FILES, *patterns]
    raise ModelError(
        f"{name} holds no model in transformers' layout (config.json with model.safetensors): "
        "download its weights file and give that file's path."
    )
