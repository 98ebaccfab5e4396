"""Which labelled images a class is learned from, and the learning."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from piclip.errors import ImageError, MaskError, UsageError
from piclip.formats.image_files import find_image
from piclip.formats.labels import LabelledFile, Labels
from piclip.io.bands import Bands
from piclip.io.decoding import reason
from piclip.io.documents import check_regular
from piclip.io.images import MAX_PIXELS, read_image

if TYPE_CHECKING:
    from piclip.segmenter import FewShotSegmenter

MOST_SUPPORTS = 50  # most labelled images that piclip.FewShotSegmenter.fit takes for a class

Examples = Mapping[str, Sequence[LabelledFile]]
"""Class name to the labelled images that it is learned from, or to those without it."""

Item = TypeVar("Item")


def choose_examples(labels: Labels) -> dict[str, list[LabelledFile]]:
    """Choose what each class is learned from: the images in which it is labelled.

    An image that shows several classes serves each of them; one in which only the class A is
    labelled serves A alone. Where a class has more than MOST_SUPPORTS, they are sorted by path
    and picked at equal distances, the first and the last included: the same ones on every run,
    and not only the first minute of a film. Classes without a label are left out; a UsageError if
    nothing is labelled.
    """
    return {
        name: spread(sorted(files, key=lambda file: file.path), MOST_SUPPORTS)
        for name, files in labels.by_class().items()
    }


def choose_negatives(labels: Labels) -> dict[str, list[LabelledFile]]:
    """Choose what each class is told from: images labelled as without it, picked alike, if any."""
    files = sorted(labels.images, key=lambda file: file.path)
    without = {n: [file for file in files if n in file.absent] for n in labels.class_names}
    return {name: spread(found, MOST_SUPPORTS) for name, found in without.items() if found}


def with_readable(
    labels: Labels,
    image_root: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    bands: Bands | None = None,
) -> Labels:
    """Leave out the labels of images that cannot be learned from, so that they cost no others.

    Of the images that `choose_examples` and `choose_negatives` choose, each is read once. One that
    is missing, cannot be read, has more than ``max_pixels`` or another size than its label says
    loses its labels, which ``skipped`` tells, and others are chosen. A UsageError if nothing else
    is labelled, or none of many images can be used.
    """
    good: set[str] = set()
    while True:
        chosen = (*choose_examples(labels).values(), *choose_negatives(labels).values())
        tried = {file.path: file for files in chosen for file in files}
        reasons = {}
        for file in tried.values():
            if file.path in good:
                continue
            try:
                read_image(file.image_in(Path(image_root)), max_pixels=max_pixels, bands=bands)
                good.add(file.path)
            except (ImageError, MaskError) as error:
                reasons[file.path] = str(error)
        if not reasons:
            return labels
        if len(reasons) == len(tried) >= MOST_SUPPORTS:
            raise UsageError(
                f"None of {len(tried)} labelled images can be learned from, the first: "
                f"{next(iter(reasons.values()))}"
            )
        labels = labels.without(reasons)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Pick at most ``most`` (2 or more) items at equal distances, the first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


@dataclass(frozen=True)
class Lesson:
    """What classes are learned from."""

    root: Path  # the folder of images
    examples: Examples
    negatives: Examples = field(default_factory=dict)  # images without a class, by its name

    def teach(self, segmenter: FewShotSegmenter, *, max_pixels: int = MAX_PIXELS) -> None:
        """Fit a segmenter to every class, one after the other to hold few masks at a time.

        Raises:
            ImageError: A labelled image is missing, cannot be read or has more than ``max_pixels``.
            MaskError: A labelled image has another size than its label says.
            UsageError: A class has too many images.
        """
        for name, files in self.examples.items():
            own = [
                replace(file, regions=tuple(r for r in file.regions if r.class_name == name))
                for file in files
            ]
            supports = Labels((name,), tuple(own)).supports(self.root)
            without = [file.image_in(self.root) for file in self.negatives.get(name, ())]
            segmenter.fit(supports, negatives=without, max_pixels=max_pixels)

    def digest(self) -> str:
        """SHA-256 over the images' contents and masks, class by class (or ImageError)."""
        content = hashlib.sha256()
        for name, files in (*self.examples.items(), *self.negatives.items()):
            content.update(repr((name, len(files))).encode())
            for file in files:
                masks = [r.mask.counts for r in file.regions if r.class_name == name]
                content.update(repr((file.path, file.size, masks)).encode())
                path = find_image(self.root, file.path) or self.root / file.path
                content.update(file_digest(path).encode())
        return content.hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a labelled file's content (ImageError if it cannot be read)."""
    try:
        check_regular(path)
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except (OSError, ValueError) as error:
        raise ImageError(
            f"The labelled file {path} cannot be read ({reason(error)}); check the path, and the "
            f"folder of images."
        ) from error
