"""Find the image files that labels speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from piclip.errors import ImageError, UsageError
from piclip.io.images import image_size, list_images

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


def relative_path(text: str) -> str:
    """Clean a path of a label file: ``/`` only, and nothing that leads out of the folder.

    Labels are often made elsewhere, so of an absolute path or one with ``..`` only the file's
    name is kept.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    drive = text[1:2] == ":"
    outside = path.is_absolute() or drive or ".." in path.parts
    return path.name if outside else str(path)


def find_image(root: Path, path: str) -> Path | None:
    """The file of a labelled image below a folder, or directly in it; None if it is not there."""
    for candidate in (root / path, root / PurePosixPath(path).name):
        try:
            if candidate.is_file():
                return candidate
        except (OSError, ValueError):  # no file can have this name
            continue
    return None


class LabelFolder:
    """A folder of label files, each named as its image but for the suffix."""

    def __init__(self, folder: Path, images: str | Path | None, what: str) -> None:
        """Takes the folders of labels and of images (UsageError if one is missing).

        The errors call the label files ``what``.
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; check the path.")
        if images is None:
            raise UsageError(f"{folder}: {what} need the folder of their images too; give it.")
        self._images = Path(images)
        self._stems = lru_cache(maxsize=None)(_stems_of)

    def files(self, paths: Iterable[Path], below: Path) -> Iterator[tuple[Path, str, Size]]:
        """Find the images of label files, which lie ``below`` a folder or its subfolders.

        An image may lie in the same subfolder of the folder of images, or directly in that.

        Yields:
            By path: the label file, its image relative to the folder of images, with ``/``, and
            the image's (height, width).

        Raises:
            ImageError: There is no such image.
            UsageError: There are two, with different suffixes.
        """
        for path in sorted(paths):
            image = self._find(path, path.relative_to(below).parent)
            yield path, image, image_size(self._images / image)

    def _find(self, label_file: Path, subfolder: Path) -> str:
        for parent in dict.fromkeys((subfolder, Path())):
            names = self._stems(self._images / parent).get(label_file.stem, [])
            if len(names) > 1:
                raise UsageError(
                    f"{label_file}: two images have this name, {names[0]} and {names[1]}; rename "
                    f"one of them and its label."
                )
            if names:
                return (parent / names[0]).as_posix()
        raise ImageError(
            f"{label_file}: no image {label_file.stem} (.jpg, .png ...) is in {self._images}; give "
            f"the folder that holds the images."
        )


def _stems_of(folder: Path) -> dict[str, list[str]]:
    """Names of the images in a folder by their stems; a folder without images has none."""
    stems: dict[str, list[str]] = {}
    try:
        images = list_images(folder)
    except ImageError:
        images = []
    for path in images:
        stems.setdefault(path.stem, []).append(path.name)
    return stems
