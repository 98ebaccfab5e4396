"""Find the image files that labels speak of, however they write the path."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote

from piclip.errors import ImageError, PiclipError, UsageError
from piclip.formats.label_files import Problems
from piclip.io.images import SUFFIXES, UNREAD, image_size

Size: TypeAlias = tuple[int, int]  # (height, width) in pixels


PNG = "*.[pP][nN][gG]"  # what PNG files are called, on Windows too


def relative_path(text: str) -> str:
    """Clean a path of a label file: ``/`` only, and nothing that leads out of the folder.

    Labels are often made elsewhere, so of an absolute path or one with ``..`` only the file's
    name is kept.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    drive = text[1:2] == ":"
    outside = path.is_absolute() or drive or ".." in path.parts
    return path.name if outside else str(path)


def locate_images(names: Iterable[str], images: str | Path | None) -> dict[str, str]:
    """Where the images that a label file names lie in a folder, as `ImageFolder.locate` finds them.

    Without a folder they keep their names. An ImageError if none of them is there.
    """
    listed = list(names)
    if images is None:
        return {name: relative_path(name) for name in listed}
    located = ImageFolder(images).locate(listed)
    if listed and not located:
        raise ImageError(
            f"{images}: none of the {len(listed)} images that the labels name is in this folder "
            f"(the first is {listed[0]}); give the folder that holds the images."
        )
    return located


def not_there(name: str, images: str | Path | None) -> ImageError:
    """The error for an image of the labels that `locate_images` has not found."""
    return ImageError(
        f"{images}: the image {name!r} is not in this folder; its labels are left out."
    )


def find_image(root: Path, path: str) -> Path | None:
    """The file of a labelled image below a folder, as `ImageFolder.find` finds it, or None."""
    found = ImageFolder(root).find(path)
    return None if found is None else root / found


class ImageFolder:
    """A folder of images with all its subfolders but hidden ones.

    Paths are compared from their ends: of the files with a name, the one that shares most folders
    with the label's path is meant. Backslashes, ``%20``, upper and lower case and the ways to
    write an accent make no difference, unless there is a file for each.
    """

    def __init__(self, root: str | Path, without: Iterable[Path] = ()) -> None:
        """Takes the folder, and files and folders below it that hold no images but labels."""
        self.root = Path(root)
        self._without = {path.absolute() for path in without}

    def find(self, path: str, *, any_suffix: bool = False) -> str | None:
        """The image that a path of a label file means, relative to the folder, with ``/``, if any.

        The path may be absolute, and of another computer. With ``any_suffix`` it is that of a label
        file, named as its image but for the suffix. A UsageError if two files fit equally well.
        """
        parts, direct = _parts(path), relative_path(path)
        if not parts:
            return None
        if not any_suffix and len(PurePosixPath(direct).parts) == len(parts):
            try:
                if (self.root / direct).is_file():
                    return direct
            except (OSError, ValueError):  # no file can have this name
                return None
        name = _plain(parts[-1])
        files = self._by_stem.get(stem := PurePosixPath(name).stem, [])
        if any_suffix and not files and PurePosixPath(stem).suffix in SUFFIXES | UNREAD:
            return self.find(str(PurePosixPath(path).with_suffix("")))  # the label is a.jpg.png
        if not any_suffix:
            files = [file for file in files if _plain(file.name) == name]
        # Beside a photo and what was made of it, such as IMG.HEIC, IMG.JPG is the one to use.
        files = [file for file in files if file.suffix.lower() not in UNREAD] or files
        if not files:
            return None
        ranked = sorted(files, key=lambda file: _likeness(file, path, any_suffix), reverse=True)
        best = [_likeness(file, path, any_suffix) for file in ranked[:2]]
        if len(best) == 2 and best[0] == best[1]:
            raise UsageError(
                f"{path}: two images have this name, {ranked[0]} and {ranked[1]}, in {self.root}; "
                f"rename one of them and its label, or give the folder that holds only one."
            )
        return ranked[0].as_posix()

    def locate(self, paths: Iterable[str], *, any_suffix: bool = False) -> dict[str, str]:
        """Find the images of many labels as `find` does: by the label's path that of its image.

        Of two labels that mean one file, the one that shares more folders with it has it; a
        UsageError if both do equally.
        """
        claims: dict[str, list[str]] = defaultdict(list)
        for path in dict.fromkeys(paths):
            if (found := self.find(path, any_suffix=any_suffix)) is not None:
                claims[found].append(path)
        located = {}
        for found, claimants in claims.items():
            if len(claimants) > 1:
                file = PurePosixPath(found)
                rank = {path: _likeness(file, path, any_suffix) for path in claimants}
                claimants.sort(key=rank.__getitem__, reverse=True)
                if rank[claimants[0]] == rank[claimants[1]]:
                    raise UsageError(
                        f"{self.root / found}: this may be the image of {claimants[0]} or of "
                        f"{claimants[1]}; keep the images in the folders that the labels name."
                    )
            located[claimants[0]] = found
        return located

    def folders(self) -> set[PurePosixPath]:
        """All folders in which images lie, relative to this one."""
        return {file.parent for files in self._by_stem.values() for file in files}

    @cached_property
    def _by_stem(self) -> dict[str, list[PurePosixPath]]:
        """All images, by their stems written plainly."""
        files: dict[str, list[PurePosixPath]] = defaultdict(list)
        for folder, subfolders, names in os.walk(self.root):
            here = Path(folder)
            subfolders[:] = [
                name
                for name in sorted(subfolders)
                if name[0] != "."
                and name != "__MACOSX"
                and (here / name).absolute() not in self._without
            ]
            for name in sorted(names):
                path = PurePosixPath(here.relative_to(self.root).as_posix(), name)
                known = path.suffix.lower() in SUFFIXES | UNREAD and name[0] != "."
                if known and (here / name).absolute() not in self._without:
                    files[PurePosixPath(_plain(name)).stem].append(path)
        return files


class LabelFiles:
    """Label files, each named as its image but for the suffix, with the folder of the images."""

    def __init__(
        self,
        folder: Path,
        paths: Iterable[Path],
        images: str | Path | None,
        what: str,
        problems: Problems,
        without: Iterable[Path] = (),
    ) -> None:
        """Takes a folder, the label files in it, the folder of images, and what is in it but none.

        Errors call the label files ``what`` (UsageError if a folder is missing).
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder; check the path.")
        if images is None:
            raise UsageError(f"{folder}: {what} need the folder of their images too; give it.")
        self._folder, self._what = folder, what
        self._paths = sorted(path for path in paths if path.name[0] != ".")
        self._images = ImageFolder(images, without=[*self._paths, *without])
        self._problems = problems

    def with_images(self, below: Path) -> Iterator[tuple[Path, str, Size]]:
        """The label files ``below`` a folder, each with its image and that one's (height, width).

        Images are found as by `ImageFolder.locate`; what is missing or cannot be read is noted and
        left out.
        """
        # Where labels lie in train/labels, images lie in train/images.
        names = {
            "/".join("images" if part == "labels" else part for part in at.parts): path
            for path in self._paths
            if path.is_relative_to(below) and (at := path.relative_to(below))
        }
        located = self._images.locate(names, any_suffix=True)
        for name, path in names.items():
            with self._problems.noted():
                if name not in located:
                    raise ImageError(
                        f"{path}: no image {path.stem} (.jpg, .png ...) is in {self._images.root}; "
                        f"give the folder that holds the images."
                    )
                size = image_size(self._images.root / located[name])
                yield path, located[name], size

    def nothing(self) -> PiclipError:
        """The error where no image is there at all: of the first, or that there are no labels."""
        if self._problems.sentences:
            return ImageError(self._problems.sentences[0])
        return UsageError(f"{self._folder}: there are no {self._what} here; check the path.")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace("\\", "/").split("/") if part not in {"", ".", ".."})


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _likeness(file: PurePosixPath, path: str, any_suffix: bool) -> tuple[int, bool, int]:
    """How many names a file and a label's path share at their ends, all or not, and exactly."""
    ours, theirs = list(file.parts), list(_parts(path))
    if any_suffix:
        ours[-1], theirs[-1] = file.stem, PurePosixPath(theirs[-1]).stem
    pairs = list(zip(reversed(ours), reversed(theirs), strict=False))
    alike = sum(1 for _ in takewhile(lambda pair: _plain(pair[0]) == _plain(pair[1]), pairs))
    exactly = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return alike, alike == len(ours) == len(theirs), exactly
