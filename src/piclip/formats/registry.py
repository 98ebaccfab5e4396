"""The formats by name, and which of them a file or folder is in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, get_args

from piclip.errors import MaskError, UsageError
from piclip.formats import coco, cvat, foreign, labelme, labelstudio, masks, voc, yolo
from piclip.formats.image_files import ImageFolder
from piclip.formats.label_files import Boxes, check_lines
from piclip.formats.labels import Labels
from piclip.io.bands import Bands
from piclip.io.decoding import reason
from piclip.io.images import read_image
from piclip.io.outputs import write_png
from piclip.io.overlays import draw_overlay


class Reader(Protocol):
    """What each module of a format has; its own docstrings say only what is special there."""

    def recognise(self, source: Path) -> bool:
        """Is this file or folder in the format? Reads no more than it needs to tell."""

    def read(
        self,
        source: str | Path,
        *,
        images: str | Path | None = None,
        class_names: Sequence[str] = (),
    ) -> Labels:
        """Read labels as `read_labels`, those of `_BOXED` with ``boxes``."""


class Format(Reader, Protocol):
    """A format that is written, too."""

    def write(self, labels: Labels, destination: str | Path) -> list[Path]:
        """Write labels as `write_labels`; those of `_OUTLINED` take ``simplify``, too."""


FORMATS: dict[str, Format] = {
    # In the order in which they are recognised: what is named plainly before what any PNG fits.
    "coco": coco,
    "labelstudio": labelstudio,
    "labelme": labelme,
    "yolo": yolo,
    "voc": voc,
    "masks": masks,
}
READERS: dict[str, Reader] = {"cvat": cvat, **FORMATS}  # also those that are only read
_BY_NAME = (*FORMATS, "cvat")
_OUTLINED = ("coco", "labelme", "yolo")
_BOXED = ("coco", "yolo")


def get_format(name: str, *, outlined: bool = False) -> Format:
    """Give a format to write, one with ``outlined`` regions if wanted (UsageError for another)."""
    if outlined and name not in _OUTLINED:
        raise UsageError(
            f"The format {name} has pixels and no outlines to simplify; leave that out, or write "
            f"one of {', '.join(_OUTLINED)}."
        )
    if name in READERS.keys() - FORMATS.keys():
        raise UsageError(f"{name} is read but not written; write coco, which its tool imports.")
    if name not in FORMATS:
        raise _unknown(name, FORMATS)
    return FORMATS[name]


def check_names(format: str, class_names: Sequence[str]) -> None:
    """Refuse names of classes that a format cannot hold, before there is anything to write."""
    if format == "voc":
        check_lines(class_names)
    elif format == "masks":
        masks.check_folders(class_names)


def detect(source: str | Path) -> str:
    """Tell the format of a file or folder from its content (UsageError if it is in none)."""
    path = _there(source)
    for name, candidate in READERS.items():
        if candidate.recognise(path):
            return name
    if what := foreign.what_it_is(path):
        raise UsageError(f"{path}: {what}.")
    raise UsageError(
        f"{path}: this is in none of the label formats {', '.join(_BY_NAME)}; say which one it is."
    )


def read_labels(
    source: str | Path,
    *,
    format: str = "auto",
    images: str | Path | None = None,
    class_names: Sequence[str] = (),
    boxes: Boxes = "skip",
    strict: bool = False,
) -> Labels:
    """Read the labels of a set of images.

    A shape that cannot be used (damaged, without a pixel, far outside its image, a point or a
    line), a mask without its image and the labels of an image that is not there are left out, and
    `Labels.skipped` says so.

    Args:
        source: The file or folder of the labelling tool.
        format: A name of `READERS`, or "auto" to tell it from the content.
        images: The folder of images; voc, masks and yolo need it, labelstudio can use it.
        class_names: The classes in their order; another one in the labels is an error.
        boxes: Of coco and yolo, "as-masks" takes boxes without a mask as rectangles, "skip"
            leaves them out. Other formats have no boxes but those that somebody drew as areas.
        strict: What would be left out is an error.

    Returns:
        The labels.

    Raises:
        UsageError: The format is unknown, the labels are malformed, or what is needed is missing.
        ImageError: None of the images is there.
        MaskError: With ``strict``, something cannot be used; the text has a line for each.
    """
    name = detect(source) if format == "auto" else format
    path = _there(source)
    if name not in READERS:
        raise _unknown(name, _BY_NAME)
    if boxes not in get_args(Boxes):
        raise UsageError(f"Boxes are {' or '.join(get_args(Boxes))}, not {boxes!r}.")
    more: dict[str, Any] = {"boxes": boxes} if name in _BOXED else {}
    try:
        labels = READERS[name].read(path, images=images, class_names=class_names, **more)
    except UsageError:
        # What lies in a folder beside its labels is no reason.
        if path.is_file() and (what := foreign.what_it_is(path)):
            raise UsageError(f"{path}: {what}.") from None
        raise
    if images is not None:
        labels = replace(labels, notes=(*labels.notes, *_left_out(labels, Path(images), path)))
    if strict and labels.skipped:
        several = [f"{len(labels.skipped)} of the labels cannot be used:"]
        raise MaskError("\n".join((several if labels.skipped[1:] else []) + [*labels.skipped]))
    return labels


def write_labels(
    labels: Labels, destination: str | Path, *, format: str, simplify: float = 0.0
) -> list[Path]:
    """Write the labels of a set of images.

    Args:
        labels: What to write.
        destination: A JSON file for coco and labelstudio, a folder for the others.
        format: A name of `FORMATS`.
        simplify: Pixels by which outlines (of coco, labelme and yolo) may miss their corners, to
            have fewer of them; coco then has outlines instead of run lengths.

    Returns:
        The files written.

    Raises:
        UsageError: The format is unknown, cannot hold the labels or has no outlines to simplify,
            or two images would have one file.
        OutputError: A file cannot be written.
    """
    options: dict[str, Any] = {"simplify": simplify} if simplify else {}
    return get_format(format, outlined=bool(simplify)).write(labels, destination, **options)


def write_overlays(
    labels: Labels,
    destination: str | Path,
    *,
    images: str | Path,
    alpha: float = 0.5,
    bands: Bands | None = None,
) -> list[Path]:
    """Draw labels over their images, to look at; nothing reads them back.

    Args:
        labels: What to draw; images without a label are left out.
        destination: The folder for ``NAME.png``, made if need be.
        images: The folder of images.
        alpha: Weight of the tint, 0 (outlines only) to 1.
        bands: Of TIFF images, as of `piclip.io.images.read_image`.

    Raises:
        ImageError: An image is missing or cannot be read.
        MaskError: An image has another size than its labels.
        OutputError: A file cannot be written.
        UsageError: Two images would have one file.
    """
    shown, written = replace(labels, images=labels.labelled), []
    for file, target in shown.with_paths(".png"):
        image = read_image(file.image_in(Path(images)), bands=bands)
        drawn = draw_overlay(image, file.class_map(labels.class_names), alpha)
        written.append(write_png(drawn, Path(destination) / target))
    return written


def _left_out(labels: Labels, images: Path, source: Path) -> Iterator[str]:
    """Says which folders hold images but none that the labels name: nobody looks there."""
    inside = source.is_dir() and source.absolute() != images.absolute()
    folders = ImageFolder(images, without=[source] if inside else ()).folders()
    others = sorted(folders - {PurePosixPath(file.path).parent for file in labels.images})
    if labels.images and others:
        yield (
            f"{images}: {len(others)} folders in which no image of the labels lies are left out, "
            f"such as {others[0]}; give that folder to use its images."
        )


def _unknown(name: str, known: Iterable[str]) -> UsageError:
    return UsageError(f"There is no label format {name!r}; the formats are {', '.join(known)}.")


def _there(source: str | Path) -> Path:
    path = Path(source)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {reason(error)}; check the path.") from error
    return path
