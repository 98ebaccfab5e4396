"""Recipes: all that decides a training, in YAML files that extend one another.

A recipe file may name another one with ``extends: other.yaml`` (relative to itself) and then says
only what differs. Paths inside a recipe are relative to the folder where the command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from piclip.training.recipe_files import explain, merge_files

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0)]


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


def load_recipe(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Reads a recipe with what it extends.

    Args:
        path: A YAML file.
        overrides: ``key=value``, the value in YAML, the key dotted: ``episodic.optimizer.lr=1e-3``.

    Raises:
        UsageError: A file cannot be read, or a key or value is wrong; the message names the key,
            where it stands, and for an unknown key the nearest one that there is.
    """
    values, origins = merge_files(Path(path), overrides)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise explain(error, Recipe, origins, Path(path)) from error
