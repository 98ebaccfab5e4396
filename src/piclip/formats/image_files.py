"""Find the image files that labels speak of."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath

from piclip.errors import ImageError, UsageError
from piclip.io.images import list_images


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


class ImagesByStem:
    """Find images by their path without its suffix, as label files beside images are named."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems = lru_cache(maxsize=None)(_stems_of)

    def find(self, label_file: Path, folder: Path) -> str:
        """Find the image that a label file belongs to.

        Args:
            label_file: A file below ``folder``.
            folder: The folder of label files; the image may lie in the same subfolder of the
                image root, or directly in it.

        Returns:
            The image's path relative to the root, with ``/``.

        Raises:
            ImageError: There is no such image.
            UsageError: There are two, with different suffixes.
        """
        for parent in dict.fromkeys((label_file.relative_to(folder).parent, Path())):
            names = self._stems(self.root / parent).get(label_file.stem, [])
            if len(names) > 1:
                raise UsageError(
                    f"{label_file}: two images have this name, {names[0]} and {names[1]}; rename "
                    f"one of them and its label."
                )
            if names:
                return (parent / names[0]).as_posix()
        raise ImageError(
            f"{label_file}: no image {label_file.stem} (.jpg, .png ...) is in {self.root}; give "
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
