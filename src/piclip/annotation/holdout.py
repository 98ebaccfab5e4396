"""What IoU to expect: each labelled image is proposed for as if it had no label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from piclip.annotation.fitted import Examples, learn, spread
from piclip.formats.cleaning import AS_FOUND, Cleaning, kept
from piclip.formats.labels import LabelledFile
from piclip.formats.predicted import from_segmentation
from piclip.formats.run_length import RunLengthMask
from piclip.io.images import MAX_PIXELS
from piclip.results import MIN_PRESENCE
from piclip.segmenter import FewShotSegmenter

MOST_HELD_OUT = 10
"""Most images of a class that are held out; each asks for learning the class anew."""


@dataclass(frozen=True)
class Expectation:
    """How well a class is found in labelled images that it was not learned from.

    Attributes:
        class_name: The class.
        labelled: In how many images it is learned from.
        ious: By image held out, the intersection over union, 0 to 1; empty with one image.
        iou: Sum of the intersections over sum of the unions; None if none was held out.
    """

    class_name: str
    labelled: int
    ious: dict[str, float]
    iou: float | None


def held_out_images(examples: Examples, most: int = MOST_HELD_OUT) -> list[LabelledFile]:
    """The images to hold out: of each class with two or more, at most ``most`` at equal distances.

    Returns:
        Each image once, sorted by path.
    """
    chosen = {
        file.path: file
        for files in examples.values()
        if len(files) > 1
        for file in spread(files, most)
    }
    return [chosen[path] for path in sorted(chosen)]


def hold_out(
    segmenter: FewShotSegmenter,
    examples: Examples,
    image_root: str | Path,
    *,
    negatives: Examples = MappingProxyType({}),
    threshold: float | None = None,
    min_presence: float = MIN_PRESENCE,
    min_score: float = 0.0,
    cleaning: Cleaning = AS_FOUND,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[int], object] = lambda measured: None,
) -> list[Expectation]:
    """Measure by leave-one-out on the labelled images.

    Each image in turn is taken away from every class that it shows, and regions are proposed for
    it as for an unlabelled one, all classes at once. A class of which it was the only example is
    then unknown. Only classes labelled in the image are measured in it: that another one is not
    labelled does not say that it is not there. Pixels to ignore do not count.

    Args:
        segmenter: It has learned the examples; it is not changed.
        examples: What it has learned from.
        image_root: The folder of images.
        negatives: The images without a class from which it has learned too.
        threshold: As in `piclip.annotation.How`.
        min_presence: As there.
        min_score: Regions with a lower score do not count.
        cleaning: What becomes of the others.
        max_pixels: Larger images are refused.
        on_progress: Called after each image with how many were measured.

    Returns:
        One expectation per class, in the order of the examples.
    """
    counts: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in examples}
    for number, file in enumerate(held_out_images(examples), start=1):
        trial = _without(segmenter, examples, negatives, file, image_root, max_pixels)
        path = file.image_in(Path(image_root))
        (found,) = trial.predict(
            [path], threshold=threshold, min_presence=min_presence, max_pixels=max_pixels
        )
        regions = kept(from_segmentation(found), min_score, cleaning).regions
        for name in set(file.class_names) & set(trial.classes):
            masks = [region.mask for region in regions if region.class_name == name]
            proposed = RunLengthMask.union(masks).to_array() if masks else np.zeros(file.size, bool)
            counts[name][file.path] = _overlap(proposed, file, name)
        on_progress(number)
    return [_expectation(name, len(files), counts[name]) for name, files in examples.items()]


def _without(
    segmenter: FewShotSegmenter,
    examples: Examples,
    negatives: Examples,
    file: LabelledFile,
    image_root: str | Path,
    max_pixels: int,
) -> FewShotSegmenter:
    """A segmenter that has not seen this image; other classes keep their memories."""
    trial = segmenter.unfitted()
    others = {
        name: [example for example in files if example.path != file.path]
        for name, files in examples.items()
    }
    for name, files in examples.items():
        if len(others[name]) == len(files):
            trial.recall(segmenter, name)
        elif others[name]:
            shown = {name: others[name]}
            learn(trial, shown, image_root, negatives=negatives, max_pixels=max_pixels)
    return trial


def _overlap(
    proposed: npt.NDArray[np.bool_], file: LabelledFile, class_name: str
) -> tuple[int, int]:
    """Pixels in the intersection and in the union."""
    known = np.ones(file.size, bool) if file.ignore is None else ~file.ignore.to_array()
    truth = file.mask_of(class_name)
    return int((proposed & truth & known).sum()), int(((proposed | truth) & known).sum())


def _expectation(name: str, labelled: int, counts: dict[str, tuple[int, int]]) -> Expectation:
    inside = sum(intersection for intersection, _ in counts.values())
    union = sum(both for _, both in counts.values())
    ious = {path: a / b for path, (a, b) in counts.items() if b}
    return Expectation(name, labelled, ious, inside / union if union else None)
