"""What of a set of labels cannot be used: noted, so that one bad shape never costs the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

from piclip.errors import ImageError, MaskError, PiclipError

Boxes: TypeAlias = Literal["skip", "as-masks"]
"""What becomes of boxes without a mask in formats whose boxes are no drawn areas (COCO, YOLO)."""


class Problems:
    """Collects one sentence for each shape, mask or image that is left out.

    Attributes:
        sentences: What is left out and why, in the order of the labels.
        notes: What was decided in reading that a person should know.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.notes: list[str] = []

    @contextmanager
    def noted(self, *more: type[PiclipError]) -> Iterator[None]:
        """Leaves out what its block reads if that is a MaskError or ImageError, or one of more."""
        try:
            yield
        except PiclipError as error:
            if not isinstance(error, (MaskError, ImageError, *more)):
                raise
            self.note(error)

    def note(self, error: PiclipError) -> None:
        """Takes down what an error says."""
        self.sentences.append(str(error))


def box_without_mask(where: str) -> MaskError:
    """The error for a box that is not to be taken as a mask."""
    return MaskError(
        f"{where}: this is a box without a mask; draw its outline, or take boxes as masks with "
        f"--boxes as-masks (boxes='as-masks' in Python)."
    )
