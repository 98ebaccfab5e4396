"""Saving and loading of networks as a folder: safetensors and config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from piclip.clip.weight_files import read_state_dict
from piclip.errors import ModelError
from piclip.io.documents import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class PretrainedModule(  # type: ignore[call-arg]  # huggingface_hub is not type-checked
    nn.Module,
    PyTorchModelHubMixin,  # type: ignore[misc]
    library_name="piclip",
    license="apache-2.0",
    pipeline_tag="image-segmentation",
    tags=["few-shot-segmentation"],
):
    """A network that saves as a folder or to the hub, and is read back strictly.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of huggingface_hub's
    ``PyTorchModelHubMixin``: the arguments of the constructor go into ``config.json`` along with
    ``"decoder"``, the network's name; the weights into ``model.safetensors``.

    Attributes:
        name: The network's name in ``config.json`` and in the registry.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._hub_mixin_config: dict[str, Any] = {
            **(self._hub_mixin_config or {}),
            "decoder": self.name,
        }

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        strict: bool = True,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,  # noqa: ANN401 - arguments of the class
    ) -> PretrainedModule:
        if Path(model_id).is_dir():
            network = cls(**options)
            network.load_weights(read_state_dict(Path(model_id) / WEIGHTS), strict=strict)
            return network.to(map_location).eval()
        loaded: PretrainedModule = super()._from_pretrained(
            model_id=model_id,
            map_location=map_location,
            strict=strict,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            **options,
        )
        return loaded

    def load_weights(self, weights: dict[str, Tensor], *, strict: bool = True) -> None:
        """Copies a state dict of our own names into the network.

        Raises:
            ModelError: If names or shapes differ from the network's.
        """
        load_strictly(self, weights, strict=strict, what=f"this {self.name}")


def load_strictly(
    module: nn.Module, weights: dict[str, Tensor], *, what: str, strict: bool = True
) -> None:
    """Copies a state dict into a module.

    Args:
        module: The module.
        weights: Its state dict. The batch counters of batch norm, which old checkpoints do not
            hold and evaluation does not use, may be absent.
        what: What the module is called in the error.
        strict: Whether every name must be in both.

    Raises:
        ModelError: If names or shapes differ; it names the first of them.
    """
    own = module.state_dict()
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(own.keys() - weights.keys() - counters) if strict else []
    unknown = sorted(weights.keys() - own.keys()) if strict else []
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if missing or unknown or shapes:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors are missing ({missing[0]}, ...)")
        if unknown:
            parts.append(f"{len(unknown)} are unknown ({unknown[0]}, ...)")
        if shapes:
            parts.append(f"{len(shapes)} have another shape ({min(shapes)}, ...)")
        raise ModelError(
            f"The weights do not fit {what}: {'; '.join(parts)}; build it with the options the "
            "weights were trained with."
        )
    absent = {name: own[name] for name in counters - weights.keys()}
    module.load_state_dict({**absent, **weights}, strict=strict)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the ``config.json`` of a saved network.

    Raises:
        ModelError: If it is absent or not a JSON object.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as the configuration of a decoder: give a folder written by "
            "save_pretrained or by piclip train."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object: the folder does not hold a decoder.")
    return config
