"""Networks on a backbone: built from options, saved and loaded as config.json and safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from piclip.clip.settings import first_line, read_json
from piclip.clip.weight_files import read_state_dict
from piclip.decoders.backbones import Backbone, build_backbone
from piclip.errors import ModelError, PiclipError, UsageError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """What every network is built with.

    Attributes:
        backbone: Name of the backbone, see `piclip.decoders.backbones.build_backbone`.
        backbone_options: Its options, for instance ``{"width": 16}``.
    """

    backbone: str = "resnet50"
    backbone_options: dict[str, Any] | None = None


class PretrainedModule(  # type: ignore[call-arg]  # huggingface_hub is not type-checked
    nn.Module,
    PyTorchModelHubMixin,  # type: ignore[misc]
    library_name="piclip",
    license="apache-2.0",
    pipeline_tag="image-segmentation",
    tags=["few-shot-segmentation"],
):
    """A network on a backbone that saves as a folder or to the hub, and is read back strictly.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of huggingface_hub's
    ``PyTorchModelHubMixin``: the options go into ``config.json`` along with ``"decoder"``, the
    network's name; the weights into ``model.safetensors``.

    Args:
        options: Fields of the network's `Options`.

    Attributes:
        name: The network's name in ``config.json`` and in the registry.
        Options: The dataclass of its options.
        options: What this one was built with.
        backbone: The backbone, with random weights.

    Raises:
        UsageError: If there is no such option, or its value is not possible.
    """

    name: ClassVar[str]
    Options: ClassVar[type[NetworkOptions]]
    options: NetworkOptions

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - of many kinds
        super().__init__()
        known = [field.name for field in fields(self.Options)]
        if unknown := [option for option in options if option not in known]:
            raise UsageError(
                f"The network {self.name!r} has no option {unknown[0]!r}: choose from "
                f"{', '.join(known)}."
            )
        self.options = self.Options(**options)
        self._hub_mixin_config = {**asdict(self.options), "decoder": self.name}
        self.backbone: Backbone = build_backbone(
            self.options.backbone, **(self.options.backbone_options or {})
        )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        decoder: str | None = None,  # in config.json, but no option
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,  # noqa: ANN401 - of many kinds
    ) -> PretrainedModule:
        weights = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            downloaded = hf_hub_download(
                model_id,
                WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            weights = Path(downloaded)
        network = cls(**options)
        load_strictly(network, read_state_dict(weights), what=f"this {cls.name}")
        return network.to(map_location).eval()


@contextmanager
def buildable(
    network: str, options: str, kind: type[PiclipError] = UsageError, advice: str = "correct them"
) -> Iterator[None]:
    """Say in one sentence that a network cannot be built; another ``PiclipError`` passes.

    Args:
        network: Its name.
        options: What its options are, or where they stand.
        kind: Of the error.
        advice: What to do about it.
    """
    try:
        yield
    except PiclipError:
        raise
    # Options of another type or size than they should be make torch fail in any way.
    except (TypeError, ValueError, RuntimeError) as error:
        raise kind(
            f"No {network} can be built with the options {options} ({first_line(error)}): {advice}."
        ) from error


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], *, what: str) -> None:
    """Copies a state dict into a module.

    Args:
        module: The module.
        weights: Its state dict. The batch counters of batch norm, which old checkpoints do not
            hold and evaluation does not use, may be absent.
        what: What the module is called in the error.

    Raises:
        ModelError: If names or shapes differ, or numbers are NaN or infinite; it names the first.
    """
    own = module.state_dict()
    counters = {name: own[name] for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(own.keys() - weights.keys() - counters.keys())
    unknown = sorted(weights.keys() - own.keys())
    shapes = sorted(
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    )
    kinds = (
        ("tensors are missing", missing),
        ("are unknown", unknown),
        ("have another shape", shapes),
    )
    if faults := [f"{len(found)} {kind} ({found[0]}, ...)" for kind, found in kinds if found]:
        raise ModelError(
            f"The weights do not fit {what}: {'; '.join(faults)}; build it with the options the "
            "weights were trained with."
        )
    if broken := [name for name in sorted(weights) if not weights[name].float().isfinite().all()]:
        raise ModelError(
            f"The weights of {what} are not all finite numbers ({broken[0]}): the training "
            "diverged or the file is damaged; take an earlier checkpoint, or copy it again."
        )
    module.load_state_dict({**counters, **weights})


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the ``config.json`` of a saved network.

    Raises:
        ModelError: If it is absent or not a JSON object.
    """
    config = read_json(folder / CONFIG)
    if config is None:
        raise ModelError(
            f"{folder / CONFIG} cannot be read as the configuration of a decoder: give a folder "
            "written by save_pretrained or by piclip train."
        )
    return config
