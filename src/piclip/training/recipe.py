"""Recipes: all that decides a training, in YAML files that extend one another.

A recipe file may name another one with ``extends: other.yaml`` (relative to itself) and then says
only what differs. Paths inside a recipe are relative to the folder where the command runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from piclip.errors import UsageError
from piclip.io.documents import parse_yaml, read_yaml

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0)]

_MOST_PARENTS = 20


class Section(BaseModel):
    """A part of a recipe; a key that it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetRecipe(Section):
    """What `piclip.datasets.catalogue.open_dataset` is given."""

    name: str
    root: Path | None = None
    options: dict[str, Any] = {}
    keep: bool = False  # keep images in memory: for small datasets


class DecoderRecipe(Section):
    """What `piclip.decoders.networks.build_decoder` is given."""

    name: str
    backbone: str = "resnet50"
    options: dict[str, Any] = {}  # width, depth, ... of the decoder
    backbone_options: dict[str, Any] = {}  # width, ... of the tiny backbone, decoder and PSPNet
    backbone_weights: Path | None = None  # ImageNet weights; None starts from random ones


class ClipRecipe(Section):
    """Where ``prior: piclip`` comes from; see `piclip.decoders.clip_priors.PriorMaker`."""

    model: str = "openai/clip-vit-base-patch16"
    text: Literal["none", "plain", "refined"] = "refined"
    visual: Literal["none", "plain", "refined", "raw"] = "plain"
    candidates: Literal["target", "oracle"] = "target"
    # "augmented": CLIP sees the crops that the decoder sees, as published. "plain": it sees the
    # images as they are, and its maps are moved along with them. A cache needs images that come
    # back: plain ones, or an augmentation that shows them whole or mirrored and no other way.
    sees: Literal["augmented", "plain"] = "augmented"
    cache: Path | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> ClipRecipe:
        if self.text == self.visual == "none":
            raise ValueError("text and visual are both none; for no prior at all set prior: none")
        return self


class AugmentationRecipe(Section):
    """See `piclip.training.augment`; the defaults are those of PASCAL-5i."""

    size: Positive = 473  # side of what the decoder sees, pixels
    whole: bool = False  # scale 1 shows the image whole, as evaluation does, not pixel by pixel
    scale: tuple[Factor, Factor] = (0.9, 1.1)
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0  # largest angle, degrees
    blur: Share = 0.5  # how often
    flip: Share = 0.5  # how often
    keep: Share = 0.85  # a crop is drawn again while it loses more of the object than this leaves

    @model_validator(mode="after")
    def _ascending(self) -> AugmentationRecipe:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale is [smallest, largest]")
        return self

    @property
    def comes_back(self) -> bool:
        """Whether an image is seen whole or mirrored, and in no other way."""
        changes = (*self.scale, self.rotation, self.blur)
        return self.whole and changes == (1.0, 1.0, 0.0, 0.0)


class OptimizerRecipe(Section):
    """Optimizer and its schedule, ``lr * (1 - step / steps) ** power``."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Factor = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Share = 0.9  # of sgd
    power: Annotated[float, Field(ge=0)] = 0.9


class PhaseRecipe(Section):
    """How long and with what a network is trained; either ``steps`` or ``epochs``."""

    steps: Annotated[int, Field(ge=0)] | None = None
    epochs: Factor | None = None  # passes over the images of the view
    batch: Positive = 8
    optimizer: OptimizerRecipe = OptimizerRecipe()

    @model_validator(mode="after")
    def _one_length(self) -> PhaseRecipe:
        if (self.steps is None) == (self.epochs is None) and not self._is_done():
            raise ValueError("give either steps or epochs, and null for the other")
        return self

    def _is_done(self) -> bool:
        """Whether nothing is left to train, so that no length is asked for."""
        return False

    def steps_for(self, images: int) -> int:
        """Optimizer steps over a set of this many images."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 0) * images / self.batch))


class BaseLearnerRecipe(PhaseRecipe):
    """The PSPNet on the base classes, whose backbone the decoder takes over, frozen."""

    folder: Path | None = None  # a trained one (RUN/base of another run) instead of training
    train_backbone: bool = True
    options: dict[str, Any] = {}  # width, ... of the PSPNet
    head_factor: Factor = 10.0  # learning rate of the head over backbone's
    augmentation: AugmentationRecipe | None = None  # None: that of the episodes

    def _is_done(self) -> bool:
        return self.folder is not None and self.steps is None and self.epochs is None


class EpisodicRecipe(PhaseRecipe):
    """The training on episodes; the frozen backbone and base learner have no learning rate."""

    # Learning rate of some of the decoder's parts, by attribute (reduce_query), over the others'.
    factors: dict[str, Factor] = {}


class ValidationRecipe(Section):
    """Episodes that ``select: base-val`` and ``novel-val`` look at."""

    every: Positive = 1000  # steps
    episodes: Positive = 200


class Recipe(Section):
    """A training, complete.

    ``select``: which weights become the result. ``last`` and ``base-val`` never see a novel class;
    ``novel-val`` picks on novel classes, as published numbers were, and marks the result.
    """

    dataset: DatasetRecipe
    fold: Annotated[int, Field(ge=0)] = 0
    shot: Positive = 1
    seed: Annotated[int, Field(ge=0)] = 0
    novel_pixels: Literal["drop", "background"] = "drop"
    minimum_pixels: Positive | None = None  # None: the dataset's own rule
    minimum_images: Annotated[int, Field(ge=0)] = 0  # classes with fewer make no episodes

    decoder: DecoderRecipe
    prior: Literal["imagenet", "piclip", "none"] = "piclip"
    clip: ClipRecipe = ClipRecipe()

    augmentation: AugmentationRecipe = AugmentationRecipe()
    base: BaseLearnerRecipe | None = None
    episodic: EpisodicRecipe
    select: Literal["last", "base-val", "novel-val"] = "last"
    validation: ValidationRecipe = ValidationRecipe()

    device: Literal["auto", "cpu"] = "auto"  # auto: what accelerate finds
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    threads: Positive | None = None  # of torch in each process; None: one per core
    workers: Annotated[int, Field(ge=0)] = 2  # processes that read and augment images
    checkpoint_every: Positive = 500  # steps
    log_every: Positive = 20  # steps

    @model_validator(mode="after")
    def _cached(self) -> Recipe:
        augmented = self.clip.sees != "plain" and not self.augmentation.comes_back
        if self.clip.cache is not None and augmented:
            raise ValueError(
                "clip.cache needs images that come back: clip.sees: plain, or augmentation.whole "
                "with scale [1, 1] and neither rotation nor blur"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they stand in YAML or JSON."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe, without ``extends``."""
        import yaml  # noqa: PLC0415

        text: str = yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)
        return text


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe with what it extends.

    Args:
        path: A YAML file.
        overrides: ``key=value``, the value in YAML, the key dotted: ``episodic.optimizer.lr=1e-3``.

    Raises:
        UsageError: A file cannot be read, or a key or value is wrong; the message names the key,
            where it stands, and for an unknown key the nearest one that there is.
    """
    values, origins = _merge_files(Path(path), overrides)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origins, Path(path)) from error


def _merge_files(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a file, of those it extends and of the command line, and who set each key."""
    chain = [(str(path), _read(path))]
    while "extends" in chain[-1][1]:
        file, content = chain[-1]
        parent = content.pop("extends")
        if not isinstance(parent, str) or len(chain) > _MOST_PARENTS:
            raise UsageError(
                f"{file}: extends = {parent!r} must name another recipe file, without a circle."
            )
        path = path.parent / parent
        chain.append((str(path), _read(path)))
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    overriding = [("the command line", _override(override)) for override in overrides]
    for where, content in [*reversed(chain), *overriding]:
        _merge(values, content, origins, where)
    return values, origins


def _explain(error: ValidationError, origins: Mapping[str, str], path: Path) -> UsageError:
    """The first thing that pydantic found, in one sentence."""
    first = error.errors(include_url=False)[0]
    names = [str(part) for part in first["loc"]]
    key = ".".join(names)
    section = key
    while section and section not in origins:
        section = section.rpartition(".")[0]
    where = origins.get(section, str(path))  # of the key, or of the section it stands in
    if first["type"] == "extra_forbidden":
        return UsageError(f"{where}: there is no key {key!r}; {_advice(names)}.")
    if first["type"] == "missing":
        return UsageError(f"{path}: the key {key!r} is missing; give it a value.")
    reason = str(first["msg"]).removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return UsageError(f"{where}: {key or 'the recipe'}{value} is not valid: {reason}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UsageError(
            f"The recipe {path} cannot be read ({error.strerror}); give the path of a YAML file."
        ) from error
    except ValueError as error:
        raise UsageError(f"The recipe {path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"The recipe {path} holds no keys; write lines such as 'fold: 0'.")
    return content


def _override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text!r} is no key=value; write for example fold=1.")
    try:
        value = parse_yaml(raw)
    except ValueError as error:
        raise UsageError(f"The value of {text!r} is no valid YAML; quote it.") from error
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return dict(value)


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], origins: dict[str, str], where: str, at: str = ""
) -> None:
    for name, value in new.items():
        key = f"{at}{name}"
        origins[key] = where
        if not isinstance(value, dict):
            into[name] = value
            continue
        if not isinstance(into.get(name), dict):
            into[name] = {}
        _merge(into[name], value, origins, where, f"{key}.")


def _advice(names: Sequence[str]) -> str:
    """The nearest key: beside the wrong one, or of the same name elsewhere."""
    every = list(_keys(Recipe))
    section = ".".join(names[:-1])
    beside = [key.rpartition(".")[2] for key in every if key.rpartition(".")[0] == section]
    near = difflib.get_close_matches(names[-1], beside, n=1)
    if near:
        return f"did you mean {'.'.join([*names[:-1], near[0]])!r}"
    elsewhere = [key for key in every if key.rpartition(".")[2] == names[-1]]
    if elsewhere:
        return f"did you mean {elsewhere[0]!r}"
    return f"the keys {'of ' + repr(section) if section else 'here'} are {', '.join(beside)}"


def _keys(model: type[BaseModel], at: str = "") -> Iterator[str]:
    """All dotted keys of a recipe, sections included."""
    for name, field in model.model_fields.items():
        yield f"{at}{name}"
        annotation = field.annotation
        for part in (annotation, *get_args(annotation)):
            if isinstance(part, type) and hasattr(part, "model_fields"):
                yield from _keys(part, f"{at}{name}.")
