"""What any labelling tool says about a set of images, in one neutral form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import ImageFolder, find_image, locate_images, not_there
from piclip.formats.label_files import Problems
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import IGNORE, image_size, list_images
from piclip.io.supports import Support

_MAX_CLASSES = 254


@dataclass(frozen=True, slots=True)
class Region:
    """One labelled region of one class: usually one object.

    Attributes:
        class_name: The class.
        mask: Its pixels, at the image's size.
        crowd: A group labelled as one (COCO's ``iscrowd``).
        score: Confidence of a prediction, 0 to 1; None for a person's label.
        extra: What else the tool says of the region, which its own format hands back unchanged: the
            flags, description, attributes ... of labelme and X-AnyLabeling.
    """

    class_name: str
    mask: RunLengthMask
    crowd: bool = False
    score: float | None = None
    extra: Mapping[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its labels.

    Attributes:
        path: The image's file, relative to the folder of images, with ``/``.
        height: Pixels, upright as a viewer shows the image.
        width: Pixels.
        regions: Its labels.
        ignore: Pixels of which nothing is known (VOC's 255).
        id: The number by which the tool knows the image, if it has one.
        source: How the tool itself names the image (Label Studio's URL), if not by its path.
        absent: Classes of which a label says that they are not in the image. An image with
            neither regions nor these is unlabelled.
        presence: Of a prediction, the probability of each class to be in the image, if it is known.
        extra: What else the tool says of the image, which its own format hands back unchanged:
            "labelme" has the fields of its file, with the shapes that are no regions; "data",
            "from_name" and "to_name" are of Label Studio.
    """

    path: str
    height: int
    width: int
    regions: tuple[Region, ...] = ()
    ignore: RunLengthMask | None = None
    id: int | None = None
    source: str | None = None
    absent: tuple[str, ...] = ()
    presence: Mapping[str, float] | None = None
    extra: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        masks = [region.mask for region in self.regions]
        for mask in [*masks, *([self.ignore] if self.ignore else [])]:
            if mask.size != self.size:
                raise MaskError(
                    f"{self.path}: a mask is {mask.width} x {mask.height} pixels (width x height) "
                    f"but the image is {self.width} x {self.height}; label the image anew."
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that are labelled in this image, each once."""
        return tuple(dict.fromkeys(region.class_name for region in self.regions))

    @property
    def labelled(self) -> bool:
        """Whether a label says what is in the image, or what is not."""
        return bool(self.regions or self.absent)

    def image_in(self, root: Path) -> Path:
        """Find the image's file below a folder, or directly in it.

        Raises:
            ImageError: It is not there or cannot be read.
            MaskError: It has another size than the labels say.
        """
        path = find_image(root, self.path)
        if path is None:
            raise ImageError(
                f"{root}: the labelled image {self.path} is not in this folder; give the folder "
                f"that holds the images."
            )
        height, width = image_size(path)
        if (height, width) != self.size:
            raise MaskError(
                f"{path}: the image is {width} x {height} pixels (width x height) but its label "
                f"was made for {self.width} x {self.height}; use the image that was labelled."
            )
        return path

    def is_in(self, root: Path) -> bool:
        """Whether its file is there, as `image_in` finds it, and of its size."""
        try:
            self.image_in(root)
        except (ImageError, MaskError):
            return False
        return True

    def mask_of(self, class_name: str) -> npt.NDArray[np.bool_]:
        """All pixels of a class, crowds included: bool (H, W)."""
        masks = [region.mask for region in self.regions if region.class_name == class_name]
        if not masks:
            return np.zeros(self.size, dtype=np.bool_)
        return RunLengthMask.union(masks).to_array()

    def class_map(self, class_names: tuple[str, ...]) -> npt.NDArray[np.uint8]:
        """Draw all regions into one map, small ones over large ones.

        Returns:
            uint8 (H, W): 0 background, k is ``class_names[k - 1]``, 255 ignore (where no region
            is).

        Raises:
            UsageError: There are more than 254 classes.
        """
        if len(class_names) > _MAX_CLASSES:
            raise UsageError(
                f"A class map holds at most {_MAX_CLASSES} classes, not {len(class_names)}; write "
                f"another format, such as coco."
            )
        drawn = np.zeros(self.size, dtype=np.uint8)
        if self.ignore is not None:
            drawn[self.ignore.to_array()] = IGNORE
        for region in sorted(self.regions, key=lambda r: -r.mask.area):
            drawn[region.mask.to_array()] = class_names.index(region.class_name) + 1
        return drawn


@dataclass(frozen=True)
class Labels:
    """All that is labelled in a set of images.

    Attributes:
        class_names: The classes, in the order of their indices.
        images: The images, labelled or not.
        category_ids: COCO's numbers of the classes; None means 1, 2, 3 ...
        skipped: What of the labels could not be used and is left out, one sentence each.
        notes: What was decided in reading them that a person should know, one sentence each.
    """

    class_names: tuple[str, ...]
    images: tuple[LabelledFile, ...]
    category_ids: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _refuse_twice("class", self.class_names)
        _refuse_twice("image", (file.path for file in self.images))
        _refuse_twice("image id", (f.id for f in self.images if f.id is not None))
        _refuse_twice("category id", self.category_ids or ())
        if "" in self.class_names:
            raise UsageError("A class of the labels has no name; name it.")
        if self.category_ids is not None and len(self.category_ids) != len(self.class_names):
            raise UsageError(
                f"{len(self.category_ids)} category ids were given for {len(self.class_names)} "
                f"classes; give one each."
            )
        for file in self.images:
            for name in (*file.class_names, *file.absent):
                check_class(name, self.class_names, file.path)

    @property
    def labelled(self) -> tuple[LabelledFile, ...]:
        """The images of which a label says what is in them, or what is not."""
        return tuple(file for file in self.images if file.labelled)

    def without(self, reasons: Mapping[str, str]) -> Labels:
        """Leave out the labels of some images; ``skipped`` then has the sentence that says why."""
        files = (
            replace(file, regions=(), absent=(), ignore=None) if file.path in reasons else file
            for file in self.images
        )
        return replace(self, images=tuple(files), skipped=(*self.skipped, *reasons.values()))

    def with_empty_as_negatives(self, image_root: str | Path) -> Labels:
        """Take each image that is listed without a label as one that holds none of the classes.

        What is not there, or has another size than the labels say, stays unlabelled.
        """
        files = (
            replace(file, absent=self.class_names)
            if not file.labelled and file.is_in(Path(image_root))
            else file
            for file in self.images
        )
        return replace(self, images=tuple(files))

    def by_class(self) -> dict[str, list[LabelledFile]]:
        """The images that show a class, for each that is labelled (UsageError if none is)."""
        shown: dict[str, list[LabelledFile]] = {name: [] for name in self.class_names}
        for file in self.labelled:
            for name in file.class_names:
                shown[name].append(file)
        found = {name: files for name, files in shown.items() if files}
        if not found:
            told = ""
            if self.skipped:
                first = self.skipped[0].removesuffix(".")
                told = f" ({len(self.skipped)} labels cannot be used, the first: {first})"
            raise UsageError(
                f"None of the images is labelled{told}; label at least one object in at least one "
                f"image."
            )
        return found

    def supports(self, image_root: str | Path) -> dict[str, list[Support]]:
        """Give everything that is labelled as supports, for ``FewShotSegmenter.fit``.

        All regions of a class in an image, crowds included, make one support; pixels to ignore
        are in no mask. Classes without a label are left out.

        Raises:
            ImageError: An image is missing or cannot be read.
            MaskError: An image has another size than its label says.
            UsageError: Nothing is labelled.
        """
        paths = {file.path: file.image_in(Path(image_root)) for file in self.images if file.regions}
        return {
            name: [Support(paths[file.path], file.mask_of(name)) for file in files]
            for name, files in self.by_class().items()
        }

    def with_paths(self, suffix: str) -> list[tuple[LabelledFile, PurePosixPath]]:
        """Each image with the path of its label file (UsageError if two would have the same)."""
        paths = label_paths((file.path for file in self.images), suffix)
        return list(zip(self.images, paths, strict=True))

    def unlabelled(self, image_root: str | Path) -> list[Path]:
        """List the images without a label, the queries, by folder and name.

        Where images of the labels lie in subfolders, only those are searched. An image that the
        labels do not know is unlabelled.

        Raises:
            ImageError: The folder is missing or has no images.
        """
        return list(self.find_unlabelled(image_root)[0])

    def find_unlabelled(
        self, image_root: str | Path
    ) -> tuple[dict[Path, LabelledFile | None], list[LabelledFile]]:
        """As `unlabelled` with what the labels say of each, and what they list but is not there."""
        root = Path(image_root)
        folder = ImageFolder(root)
        found: dict[Path, LabelledFile] = {}
        missing = []
        for file in self.images:
            if (path := folder.find(file.path)) is not None:
                found[root / path] = file
            elif not file.labelled:
                missing.append(file)
        folders = {path.parent for path in found} or {root}
        listed = [path for folder in sorted(folders) for path in list_images(folder)]
        known = {path: found.get(path) for path in listed}
        waiting = {path: file for path, file in known.items() if file is None or not file.labelled}
        return waiting, missing


def placed(
    files: Sequence[LabelledFile], images: str | Path | None, problems: Problems
) -> tuple[LabelledFile, ...]:
    """Images by where they lie in a folder; of those that are not there the labels are left out.

    Which ones that are is noted; ``images`` and errors as in `locate_images`.
    """
    located = locate_images((file.path for file in files), images)
    found = []
    for file in files:
        if file.path in located:
            found.append(replace(file, path=located[file.path]))
            continue
        if file.labelled:
            problems.note(not_there(file.path, images))
        found.append(replace(file, regions=(), absent=(), ignore=None))
    return tuple(found)


def label_paths(images: Iterable[str], suffix: str) -> list[PurePosixPath]:
    """The label file of each image: its path with another suffix (UsageError if two collide)."""
    paths = [PurePosixPath(image).with_suffix(suffix) for image in images]
    for path, count in Counter(paths).items():
        if count > 1:
            raise UsageError(
                f"Two images are called {path.with_suffix('')} and only their suffixes differ, so "
                f"that both would have one label; rename one of them, or write coco."
            )
    return paths


def names_by_index(
    found: Sequence[str], given: Sequence[str], file: Path, first: int
) -> tuple[str, ...]:
    """The names of class indices that labels came with, or those given (UsageError if neither)."""
    if not found and not given:
        raise UsageError(
            f"{file.parent}: what the class indices mean is not said; put one class name per line, "
            f"that of index {first} first, into {file}, or give each its --name in that order."
        )
    return tuple(found or given)


def check_class(name: str, class_names: Iterable[str], where: str) -> str:
    """Give the name back if it is one of the classes, else raise UsageError."""
    known = tuple(class_names)
    if name not in known:
        raise UsageError(
            f"{where}: the class {name!r} is unknown; the classes are {', '.join(known) or 'none'}."
        )
    return name


def _refuse_twice(what: str, values: Iterable[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UsageError(f"The labels name the {what} {value!r} twice; keep one of the two.")
        seen.add(value)
