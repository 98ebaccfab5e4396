"""What a prediction gives back: masks, scores and priors of one image."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import UsageError
from piclip.io.images import IGNORE
from piclip.io.outputs import write_png
from piclip.io.overlays import class_map_image, draw_overlay

if TYPE_CHECKING:
    from supervision import Detections

MIN_PRESENCE = 0.5
"""Classes that are less likely to be in an image get no pixel of it."""

OVERLAYS = "overlays"
"""The subfolder of the pictures that are only to be looked at."""

MAX_CLASSES = 254
"""0 is the background of a class map, 255 what is ignored."""

_NOTEBOOK_PIXELS = 800
_DIGITS = 4


class ScoreMaps(Protocol):
    """One map of scores in [0, 1] per class; an array is one, others make a map when it is asked.

    Of a large photograph the maps of all classes do not fit in memory at once.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.float32]:
        """The map of a class, float32 (H, W)."""
        ...


@dataclass(frozen=True, eq=False)
class Priors:
    """The maps behind one image's scores on the patch grid, each float32 (C, h, w) in [0, 1].

    Attributes:
        fused: What the segmenter makes of the others before it goes from patches to pixels.
        visual_text: VTP: where the image agrees with the class's name. None without a text tower,
            like its refinement.
        visual_text_refined: VTP spread along the encoder's attention (PIR).
        contrast: Probability that a patch is of the object rather than of its background, by the
            supports alone. None with the published priors.
        visual_visual: VVP: greatest similarity to the support's object patches. None but with the
            published priors, like its refinement.
        visual_visual_refined: VVP spread along the encoder's attention (PIR).
    """

    fused: npt.NDArray[np.float32]
    visual_text: npt.NDArray[np.float32] | None = None
    visual_text_refined: npt.NDArray[np.float32] | None = None
    contrast: npt.NDArray[np.float32] | None = None
    visual_visual: npt.NDArray[np.float32] | None = None
    visual_visual_refined: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, values in self.maps().items():
            _check_unit_maps(f"The prior {name}", values)
            if values.shape != self.fused.shape:
                raise UsageError(
                    f"The prior {name} has the shape {values.shape} but fused has "
                    f"{self.fused.shape}; compute all on one patch grid."
                )

    def maps(self) -> dict[str, npt.NDArray[np.float32]]:
        """Those that there are, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __repr__(self) -> str:
        """Short: the shape only."""
        classes, height, width = self.fused.shape
        return f"Priors(classes={classes}, grid={height} x {width})"


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The classes found in one image.

    Attributes:
        class_names: The C classes looked for.
        class_map: uint8 (H, W) at the image's own size: 0 background, k is
            ``class_names[k - 1]``, 255 ignore.
        score_maps: The maps that `scores` and `score_of` give.
        priors: The maps on the patch grid that the scores were made from; None where a trained
            decoder made the scores.
        image: The image (any mode), for overlays; None to save memory.
        name: What files of this result are called: the image's stem or its index.
        source: The image's file; None for an image that was in memory.
        presence: float32 (C,), probability of each class to be in the image at all; 0.5 is where
            the segmenter itself decides. None where the model does not tell, as trained decoders.
    """

    class_names: tuple[str, ...]
    class_map: npt.NDArray[np.uint8]
    score_maps: ScoreMaps
    priors: Priors | None
    image: Image.Image | None
    name: str
    source: str | None = None
    presence: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.class_names)
        if not 1 <= count <= MAX_CLASSES or len(set(self.class_names)) != count:
            raise UsageError(
                f"A segmentation needs 1 to {MAX_CLASSES} different class names, not "
                f"{self.class_names}."
            )
        if self.class_map.ndim != 2 or self.class_map.dtype != np.uint8:
            raise UsageError(
                f"The class map must be uint8 (H, W), but it is {self.class_map.dtype} with the "
                f"shape {self.class_map.shape}."
            )
        if isinstance(self.score_maps, np.ndarray):
            _check_unit_maps("The scores", self.score_maps)
        if self.score_maps.shape != (count, *self.class_map.shape):
            raise UsageError(
                f"The scores have the shape {self.score_maps.shape}, but {count} classes and the "
                f"class map ask for {(count, *self.class_map.shape)}."
            )
        known = self.class_map[self.class_map != IGNORE]
        if known.size and known.max() > count:
            raise UsageError(
                f"The class map holds the index {known.max()}, but there are only {count} classes."
            )
        if self.priors is not None and self.priors.fused.shape[0] != count:
            raise UsageError(
                f"The priors are for {self.priors.fused.shape[0]} classes, but there are {count}."
            )
        if self.presence is not None and self.presence.shape != (count,):
            raise UsageError(
                f"The presence has the shape {self.presence.shape}, but there are {count} classes."
            )
        if self.image is not None and (self.image.height, self.image.width) != self.size:
            raise UsageError(
                f"The image is {self.image.width} x {self.image.height} pixels (width x height), "
                f"but the class map is {self.size[1]} x {self.size[0]}."
            )
        if self.name in {"", ".."} or Path(self.name).name != self.name or "\0" in self.name:
            raise UsageError(
                f"The name {self.name!r} of a segmentation must be usable as a file name."
            )

    @property
    def file_name(self) -> str:
        """The name of the image's file, or what it is called instead."""
        return self.name if self.source is None else Path(self.source).name

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        height, width = self.class_map.shape
        return height, width

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Bool (H, W): pixels of any class."""
        return np.asarray((self.class_map > 0) & (self.class_map != IGNORE))

    @property
    def presence_by_class(self) -> dict[str, float] | None:
        """The presence of each class by its name, with four digits; None where it is not told."""
        if self.presence is None:
            return None
        shown = (round(float(each), _DIGITS) for each in self.presence)
        return dict(zip(self.class_names, shown, strict=True))

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 (C, H, W) in [0, 1], one map per class.

        Of many classes in a large photograph these are gigabytes: `score_of` gives one by one.
        """
        if isinstance(self.score_maps, np.ndarray):
            return self.score_maps
        scores = np.empty(self.score_maps.shape, dtype=np.float32)
        for index in range(len(scores)):
            scores[index] = self.score_maps[index]
        return scores

    @property
    def score(self) -> npt.NDArray[np.float32]:
        """float32 (H, W): the greatest score over the classes."""
        maps = (self.score_maps[index] for index in range(len(self.class_names)))
        return np.asarray(reduce(np.maximum, maps))

    def score_of(self, class_name: str) -> npt.NDArray[np.float32]:
        """Give the scores of one class.

        Args:
            class_name: One of ``class_names``.

        Returns:
            float32 (H, W) in [0, 1].

        Raises:
            UsageError: There is no such class.
        """
        return self.score_maps[self._index(class_name)]

    def mask_of(self, class_name: str) -> npt.NDArray[np.bool_]:
        """Give the mask of one class.

        Args:
            class_name: One of ``class_names``.

        Returns:
            Bool (H, W).

        Raises:
            UsageError: There is no such class.
        """
        return np.asarray(self.class_map == self._index(class_name) + 1)

    def at_threshold(self, threshold: float, *, min_presence: float = MIN_PRESENCE) -> Segmentation:
        """Decide anew which pixels are object: those whose best class scores high enough.

        Args:
            threshold: Least score, 0 to 1.
            min_presence: Classes that are less likely to be in the image get no pixel, 0 to 1.

        Returns:
            A new segmentation with the same scores and another class map (nothing is ignored).

        Raises:
            UsageError: A number is not in [0, 1].
        """
        check_limits(threshold, min_presence)
        found = class_map_at(self.score_maps, threshold, self.presence, min_presence)
        return replace(self, class_map=found)

    def cleaned(
        self, *, min_area: float | str = 0, largest: bool = False, fill_holes: bool = False
    ) -> Segmentation:
        """Leave out what nobody would have drawn; a part is pixels that touch at sides or corners.

        Args:
            min_area: Parts with fewer pixels are left out; a number, or a text such as "0.1%" of
                the image's pixels.
            largest: Only the largest part of each class is kept.
            fill_holes: First of all, holes in which no other class was found are filled.

        Returns:
            A new segmentation with the same scores and another class map.

        Raises:
            UsageError: The area is neither.
        """
        from piclip.formats.cleaning import Cleaning  # noqa: PLC0415  (as the other formats)

        cleaning = Cleaning(min_area, largest, fill_holes)
        return replace(self, class_map=cleaning.class_map(self.class_map, len(self.class_names)))

    def overlay(self, alpha: float = 0.5) -> Image.Image:
        """Draw the classes over the image.

        Args:
            alpha: Weight of the tint, 0 (outlines only) to 1.

        Returns:
            RGB image of the image's own size.

        Raises:
            UsageError: The segmentation was made without its image, or alpha is out of range.
        """
        if self.image is None:
            raise UsageError(
                f"The segmentation {self.name!r} does not hold its image; predict with the image "
                f"kept to draw an overlay."
            )
        if not 0 <= alpha <= 1:
            raise UsageError(f"The alpha of an overlay must be between 0 and 1, not {alpha}.")
        return draw_overlay(self.image, self.class_map, alpha)

    def save(
        self,
        folder: str | Path,
        *,
        overlay: bool = False,
        name: str | None = None,
        overwrite: bool = False,
    ) -> dict[str, Path]:
        """Write the mask, and the overlay if asked for, as PNG files.

        One class gives an 8-bit mask of 0 and 255; several give class indices with the palette
        of PASCAL VOC (255 ignore). Overlays go to a subfolder, so that the folder holds masks only.

        Args:
            folder: Made if need be.
            overlay: Write ``overlays/NAME.png`` too.
            name: What the files are called instead of ``name``, without ``.png``.
            overwrite: Whether files that are there may be replaced: those of an earlier run, or of
                another image of the same name.

        Returns:
            The files written, under "mask" and "overlay".

        Raises:
            OutputError: A file cannot be written.
            UsageError: A file is there already, or an overlay is asked for without an image.
        """
        file = f"{self.name if name is None else name}.png"
        paths = {"mask": Path(folder) / file}
        if overlay:
            paths["overlay"] = Path(folder) / OVERLAYS / file
        there = [path for path in paths.values() if os.path.exists(path)]  # noqa: PTH110 - any name
        if there and not overwrite:
            raise UsageError(
                f"{there[0]} is there already, of an earlier run or of another image of that name; "
                f"choose another folder or name=, or replace it with overwrite=True."
            )
        for kind, picture in self.pictures(overlay=overlay).items():
            write_png(picture, paths[kind])
        return paths

    def pictures(self, *, overlay: bool = False) -> dict[str, Image.Image | npt.NDArray[Any]]:
        """What `save` writes, for `piclip.io.outputs.write_png`: the "mask", and the "overlay"."""
        one = len(self.class_names) == 1
        found: dict[str, Image.Image | npt.NDArray[Any]] = {
            "mask": self.mask if one else class_map_image(self.class_map)
        }
        return found | {"overlay": self.overlay()} if overlay else found

    def to_coco(
        self, file_name: str | None = None, *, instances: bool = True, polygons: bool = False
    ) -> dict[str, Any]:
        """Give the content of a COCO file for this image, see `piclip.formats.coco`.

        Args:
            file_name: What the image is called there; `file_name` without it.
            instances: One annotation per connected part, or else per class.
            polygons: Outlines instead of run lengths.

        Returns:
            "images", "annotations" (with area, bbox and score) and "categories". The image's id
            is a number of 40 bits made of its file, and those of the annotations follow from it,
            so the lists of several images can be joined; `merge_coco` numbers them anew.
        """
        from piclip.formats.predicted import to_coco  # noqa: PLC0415  (needs an extra)

        return to_coco(self, file_name, instances=instances, polygons=polygons)

    def to_yolo(self, *, instances: bool = True) -> str:
        """Give the lines of a YOLO segmentation label, see `piclip.formats.yolo`.

        Args:
            instances: One line per connected part, or else per class.
        """
        from piclip.formats import from_segmentation, yolo  # noqa: PLC0415  (needs an extra)

        return yolo.to_text(from_segmentation(self, instances=instances), self.class_names)

    def to_supervision(self, *, instances: bool = True) -> Detections:
        """Give ``supervision.Detections`` with masks (n, H, W), confidences and class names.

        Args:
            instances: One detection per connected part, or else per class.
        """
        from piclip.formats.detections import to_detections  # noqa: PLC0415  (needs an extra)

        return to_detections(self, instances=instances)

    def _index(self, class_name: str) -> int:
        if class_name not in self.class_names:
            raise UsageError(
                f"There is no class {class_name!r} here; the classes are "
                f"{', '.join(self.class_names)}."
            )
        return self.class_names.index(class_name)

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook, at most 800 pixels wide or high."""
        blank = Image.new("RGB", (self.size[1], self.size[0]))
        image = draw_overlay(blank, self.class_map) if self.image is None else self.overlay()
        image.thumbnail((_NOTEBOOK_PIXELS, _NOTEBOOK_PIXELS))
        data = io.BytesIO()
        image.save(data, format="PNG")
        return data.getvalue()

    def __repr__(self) -> str:
        """Short: name, size and how much of the image each class covers."""
        shares = ", ".join(f"{name} {self.mask_of(name).mean():.1%}" for name in self.class_names)
        return f"Segmentation({self.name!r}, {self.size[0]} x {self.size[1]}, {shares})"


def class_map_at(
    scores: ScoreMaps,
    threshold: float,
    presence: npt.NDArray[np.float32] | None = None,
    min_presence: float = MIN_PRESENCE,
) -> npt.NDArray[np.uint8]:
    """The best class of each pixel where its score reaches the threshold, uint8 (H, W).

    Args:
        scores: One map per class, of which one is looked at after the other.
        threshold: Least score.
        presence: Probability of each class to be in the image, (C,); None asks nothing.
        min_presence: Classes below it get no pixel.

    Returns:
        0 background, k for class k - 1.
    """
    classes, *size = scores.shape
    class_map = np.zeros(size, dtype=np.uint8)
    best = np.full(size, -1, dtype=np.float32)
    for index in range(classes):
        if presence is None or presence[index] >= min_presence:
            score = scores[index]
            class_map[score > best] = index + 1  # of equal ones the first
            np.maximum(best, score, out=best)
    class_map[best < threshold] = 0
    return class_map


def check_limits(threshold: float, min_presence: float) -> None:
    """Refuses a least score or a least presence that no figure in [0, 1] can be compared with.

    Raises:
        UsageError: One is not in [0, 1].
    """
    for what, value in (("threshold", threshold), ("least presence", min_presence)):
        if not 0 <= value <= 1:
            raise UsageError(f"The {what} must be between 0 and 1, not {value}.")


def priors_of(segmentation: Segmentation) -> Priors:
    """The priors of a segmentation.

    Raises:
        UsageError: A trained decoder made it.
    """
    if segmentation.priors is None:
        raise UsageError(
            f"The segmentation {segmentation.name!r} was made by a trained decoder, which keeps no "
            f"priors; take a CLIP as the model to see them."
        )
    return segmentation.priors


def _check_unit_maps(what: str, values: npt.NDArray[np.float32]) -> None:
    """Refuse anything but float32 (C, H, W) in [0, 1]; NaN is out of range too."""
    if values.ndim != 3 or values.dtype != np.float32 or values.size == 0:
        raise UsageError(
            f"{what} must be float32 (C, H, W), but the type is {values.dtype} and the shape "
            f"{values.shape}."
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(f"{what} must lie in [0, 1], but the values go from {low} to {high}.")
