"""What IoU to expect: each labelled image is proposed for as if it had no label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from piclip.annotation.answers import How
from piclip.annotation.fitted import Examples, Lesson, spread
from piclip.formats.labels import LabelledFile
from piclip.formats.predicted import from_segmentation
from piclip.formats.run_length import RunLengthMask
from piclip.segmenter import FewShotSegmenter

MOST_HELD_OUT = 10  # images of a class; each asks for learning the class anew


@dataclass(frozen=True)
class Expectation:
    """How well a class is found in labelled images that it was not learned from."""

    class_name: str
    labelled: int  # in how many images it is learned from
    ious: dict[str, float]  # by image held out, intersection over union, 0 to 1
    iou: float | None  # sum of the intersections over sum of the unions, if any was held out


def held_out_images(examples: Examples) -> list[LabelledFile]:
    """The images to hold out: of each class with two or more, some at equal distances."""
    chosen = {
        file.path: file
        for files in examples.values()
        if len(files) > 1
        for file in spread(files, MOST_HELD_OUT)
    }
    return [chosen[path] for path in sorted(chosen)]


def hold_out(
    segmenter: FewShotSegmenter,
    lesson: Lesson,
    how: How,
    *,
    keep: Callable[[LabelledFile], LabelledFile] = lambda file: file,
    on_progress: Callable[[int], object] = lambda measured: None,
) -> list[Expectation]:
    """Measure by leave-one-out on the labelled images.

    Each image in turn is taken away from every class that it shows, and regions are proposed for
    it as for an unlabelled one, all classes at once. A class of which it was the only example is
    then unknown. Only classes labelled in the image are measured in it: that another one is not
    labelled does not say that it is not there. Pixels to ignore do not count.

    The segmenter, which has learned the lesson, is not changed. ``keep`` says what becomes of the
    regions of an image; ``on_progress`` is told how many images were measured.
    """
    counts: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in lesson.examples}
    for number, file in enumerate(held_out_images(lesson.examples), start=1):
        trial = _without(file, segmenter, lesson, how.max_pixels)
        (found,) = trial.predict([file.image_in(lesson.root)], **vars(how))
        regions = keep(from_segmentation(found)).regions
        for name in set(file.class_names) & set(trial.classes):
            masks = [region.mask for region in regions if region.class_name == name]
            proposed = RunLengthMask.union(masks).to_array() if masks else np.zeros(file.size, bool)
            counts[name][file.path] = _overlap(proposed, file, name)
        on_progress(number)
    return [_expectation(name, len(files), counts[name]) for name, files in lesson.examples.items()]


def _without(
    file: LabelledFile, segmenter: FewShotSegmenter, lesson: Lesson, max_pixels: int
) -> FewShotSegmenter:
    """A segmenter that has not seen this image; other classes keep their memories."""
    trial = segmenter.unfitted()
    for name, files in lesson.examples.items():
        others = [example for example in files if example.path != file.path]
        if len(others) == len(files):
            trial.recall(segmenter, name)
        elif others:
            replace(lesson, examples={name: others}).teach(trial, max_pixels=max_pixels)
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
