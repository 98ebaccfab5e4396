"""The images without a label, and the regions proposed for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from piclip.annotation.journal import Journal, Proposal, Stamp, stamp_of
from piclip.errors import MaskError, PiclipError
from piclip.formats.image_files import find_image
from piclip.formats.labels import LabelledFile, Labels
from piclip.formats.predicted import from_segmentation
from piclip.io.images import MAX_PIXELS
from piclip.results import MIN_PRESENCE, Segmentation
from piclip.segmenter import FewShotSegmenter


@dataclass(frozen=True)
class Query:
    """An image to annotate.

    Attributes:
        path: How the labels call it, or its path relative to the folder of images.
        file: Where it lies.
        known: What the labels say about it, if they list it.
    """

    path: str
    file: Path
    known: LabelledFile | None = None


@dataclass(frozen=True)
class Failure:
    """An image for which nothing could be proposed.

    Attributes:
        path: As in `Query`.
        reason: One sentence.
    """

    path: str
    reason: str


def find_queries(labels: Labels, image_root: str | Path) -> tuple[list[Query], list[Failure]]:
    """Find the images that have no label.

    Args:
        labels: What is labelled.
        image_root: The folder of images; for its subfolders see `Labels.unlabelled`.

    Returns:
        The images by folder and name, and those that the labels list but that are not there.

    Raises:
        ImageError: The folder is missing or has no images.
    """
    root = Path(image_root)
    known, missing = {}, []
    for file in labels.images:
        if file.labelled:
            continue
        found = find_image(root, file.path)
        if found is None:
            missing.append(
                Failure(file.path, f"{file.path}: the labels list this image, but it is not here.")
            )
        else:
            known[found] = file
    queries = [
        Query(known[path].path, path, known[path])
        if path in known
        else Query(path.relative_to(root).as_posix(), path)
        for path in labels.unlabelled(root)
    ]
    return queries, missing


def propose(
    segmenter: FewShotSegmenter,
    queries: Sequence[Query],
    journal: Journal,
    *,
    threshold: float | None = None,
    min_presence: float = MIN_PRESENCE,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[int], object] = lambda tried: None,
) -> list[Failure]:
    """Propose regions for images, all classes in one pass each, and note them in the journal.

    Images are read, segmented and forgotten batch by batch, so that memory does not grow with
    their number. Whatever ends this early, the journal keeps what is finished.

    Args:
        segmenter: It has learned the classes.
        queries: The images.
        journal: Takes one line per finished image.
        threshold: Least score of a class; None for the model's own.
        min_presence: Classes that are less likely to be in an image get no region.
        batch_size: How many images are segmented together.
        max_pixels: Larger images are refused.
        on_progress: Called after each image with the number of images tried so far.

    Returns:
        The images that failed.

    Raises:
        OutputError: The journal cannot be written.
    """
    failures: list[Failure] = []
    asked: deque[tuple[Query, Stamp]] = deque()  # those that have no answer yet, in order
    finished = 0

    def files() -> Iterator[Path]:
        for query in queries:
            try:
                asked.append((query, stamp_of(query.file)))
            except PiclipError as error:
                failures.append(Failure(query.path, str(error)))
            else:
                yield query.file

    def failed(_: object, error: PiclipError) -> None:
        failures.append(Failure(asked.popleft()[0].path, str(error)))

    for found in segmenter.stream(
        files(),
        on_error=failed,
        batch_size=batch_size,
        threshold=threshold,
        min_presence=min_presence,
        max_pixels=max_pixels,
    ):
        query, stamp = asked.popleft()
        try:
            proposal = _proposal(query, found)
        except MaskError as error:
            failures.append(Failure(query.path, str(error)))
        else:
            journal.append(proposal, stamp)
            finished += 1
        on_progress(finished + len(failures))
    on_progress(finished + len(failures))
    return failures


def certainty_of(found: Segmentation) -> float:
    """How sure the segmenter is of an image: what a person should label next.

    A pixel's score counts no more than the presence of its class, where that is known.

    Args:
        found: The image's result.

    Returns:
        The mean over the pixels of all classes; without any, one minus the greatest score. 0
        (label this image next) to 1.
    """
    most = np.ones(len(found.class_names)) if found.presence is None else found.presence
    own = {name: float(one) for name, one in zip(found.class_names, most, strict=True)}
    pixels = int(found.mask.sum())
    if not pixels:
        return 1 - max(min(float(found.score_of(name).max()), own[name]) for name in own)
    masks = ((name, found.mask_of(name)) for name in own)
    sums = (np.minimum(found.score_of(n)[mask], own[n]).sum() for n, mask in masks if mask.any())
    return sum(map(float, sums)) / pixels


def _proposal(query: Query, found: Segmentation) -> Proposal:
    """What was found (MaskError if the labels list the image with another size)."""
    file = from_segmentation(found, query.path)
    if query.known is not None:
        if found.size != query.known.size:
            raise MaskError(
                f"{query.file}: the image is {file.width} x {file.height} pixels (width x height) "
                f"but the labels say {query.known.width} x {query.known.height}; give the image "
                f"that the labels list."
            )
        file = replace(file, id=query.known.id, source=query.known.source)
    return Proposal(file, certainty_of(found))
