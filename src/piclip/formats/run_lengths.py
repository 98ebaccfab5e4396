"""COCO's run lengths, checked: pycocotools reads past the end of runs that do not fit."""

from __future__ import annotations

from collections.abc import Sequence


def whole_runs(runs: Sequence[int] | str | bytes, size: tuple[int, int]) -> list[int] | None:
    """The run lengths of a mask, column by column, beginning with background.

    Args:
        runs: Plain numbers, or COCO's compressed text.
        size: (height, width) that they must fill exactly.

    Returns:
        Numbers of 0 or more; None where the runs are damaged or of a mask of another size.
    """
    text = runs.decode("latin-1") if isinstance(runs, bytes) else runs
    numbers = _decompress(text) if isinstance(text, str) else list(text)
    if numbers is None or not all(type(n) is int and n >= 0 for n in numbers):
        return None
    return numbers if sum(numbers) == size[0] * size[1] else None


def _decompress(text: str) -> list[int] | None:
    """The runs in COCO's compressed text, None where it is damaged."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        # From the fourth on, runs are written as differences to the last but one.
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs if shift == 0 else None
