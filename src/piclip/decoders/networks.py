"""Networks on a backbone: built by name, saved and loaded as config.json and safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from piclip.clip.settings import first_line, read_json
from piclip.clip.weight_files import read_state_dict
from piclip.decoders.backbones import Backbone, build_backbone
from piclip.errors import ModelError, PiclipError, UsageError

if TYPE_CHECKING:
    from typing import Self

    from piclip.decoders.base import FewShotDecoder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DECODERS: dict[str, str] = {"pfenet": "PFENet", "bam": "BAM", "hdmnet": "HDMNet"}


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The backbone of a network: see `piclip.decoders.backbones.build_backbone`."""

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
    ``PyTorchModelHubMixin``: the options, fields of the network's `Options`, go into
    ``config.json`` along with ``"decoder"``, the network's name; the weights into
    ``model.safetensors``. They are random at first.

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

    def train(self, mode: bool = True) -> Self:
        """Switches to training; frozen parts stay in evaluation (batch norm, dropout)."""
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

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
    """Say in one sentence of a kind that a network cannot be built; another PiclipError passes.

    ``options`` are the network's, or where they stand.
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
    """Copies a state dict into a module, which is called ``what`` in an error.

    The batch counters of batch norm, which old checkpoints do not hold and evaluation does not use,
    may be absent.

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
    """Reads the ``config.json`` of a network; ModelError if it is absent or no JSON object."""
    config = read_json(folder / CONFIG)
    if config is None:
        raise ModelError(
            f"{folder / CONFIG} cannot be read as the configuration of a decoder: give a folder "
            "written by save_pretrained or by piclip train."
        )
    return config


def decoder_class(name: str) -> type[FewShotDecoder]:
    """Returns the class of a decoder; UsageError, which lists the names, if there is none."""
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
