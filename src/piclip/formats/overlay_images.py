"""Labels drawn over their images, to look at; nothing reads them back."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from piclip.errors import ImageError
from piclip.formats.image_files import find_image
from piclip.formats.labels import Labels
from piclip.io.images import read_image
from piclip.io.outputs import write_png
from piclip.io.overlays import draw_overlay


def write(
    labels: Labels, destination: str | Path, *, images: str | Path, alpha: float = 0.5
) -> list[Path]:
    """Draw every labelled image.

    Args:
        labels: What to draw.
        destination: The folder for ``NAME.png``, made if need be.
        images: The folder of images.
        alpha: Weight of the tint, 0 (outlines only) to 1.

    Returns:
        The files written.

    Raises:
        ImageError: An image is missing, cannot be read, or has another size than its labels.
        OutputError: A file cannot be written.
    """
    written = []
    for file in labels.labelled:
        path = find_image(Path(images), file.path)
        if path is None:
            raise ImageError(f"{images}: the image {file.path} is not in this folder.")
        image = read_image(path)
        if (image.height, image.width) != file.size:
            raise ImageError(
                f"{path}: the image is {image.width} x {image.height} pixels (width x height) but "
                f"its label was made for {file.width} x {file.height}."
            )
        drawn = draw_overlay(image, file.class_map(labels.class_names), alpha)
        target = PurePosixPath(file.path).with_suffix(".png")
        written.append(write_png(drawn, Path(destination) / target))
    return written
