"""Write results so that a file is either there in full or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from piclip.errors import OutputError, UsageError

Progress = Callable[[int, int | None], None]
"""Told how much is done and of how much, None where that is not known."""


def summed(progress: Progress | None, total: int, done: int = 0) -> Callable[[int], None]:
    """Tells a progress, if there is one, of work that is reported piece by piece."""

    def told(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return told


_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.EACCES: "permission is denied; choose a folder that you may write to",
    errno.EPERM: "permission is denied; choose a folder that you may write to",
    errno.ENOENT: "its folder was removed or its disk taken away; try again when it is back",
    errno.ENOTDIR: "a file is where a folder should be; move it away or choose another folder",
    errno.EEXIST: "a file is where a folder should be; move it away or choose another folder",
    errno.EISDIR: "a folder is where the file should be; move it away or choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def ensure_folder(path: str | Path) -> Path:
    """Make a folder with its parents if need be; OutputError where it cannot be written to."""
    folder = Path(path)
    with advice_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


def check_file(destination: str | Path, *, make_folder: bool = True) -> Path:
    """Refuse a file that cannot be written before the work that it is for; gives where links lead.

    Raises:
        OutputError: Its folder cannot be made or written to, or something else is in its place.
    """
    target = Path(os.path.realpath(destination))
    if make_folder:
        ensure_folder(target.parent)
    with advice_for(Path(destination)):
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "a device or pipe"
            raise OutputError(
                f"{destination} cannot be written: {kind} is where the file should be; choose "
                f"another name."
            )
    return target


@contextmanager
def atomic_path(destination: str | Path, *, make_folder: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to, renamed to the destination once all went well.

    The temporary file lies in the destination's folder and has its suffix. Whatever ends the block
    early, an interrupt included, removes it and leaves an older destination as it was.

    Args:
        destination: The file to make or to replace; a link is followed.
        make_folder: Make its folder if need be; else a folder that was taken away is an error.

    Yields:
        The path to write to; nothing exists there yet.

    Raises:
        OutputError: An OSError inside the block or while renaming, as one sentence.
    """
    target = check_file(destination, make_folder=make_folder)
    temporary = target.parent / f".piclip-{secrets.token_hex(6)}{target.suffix}"
    with advice_for(Path(destination)):
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what `atomic_path` had to leave: it was killed, or the folder was taken away.

    Nobody may write there meanwhile.
    """
    for file in folder.glob(f".piclip-{'[0-9a-f]' * 12}*"):
        with advice_for(file):
            file.unlink(missing_ok=True)


def write_png(
    image: Image.Image | npt.NDArray[Any], path: str | Path, *, make_folder: bool = True
) -> Path:
    """Write a PNG file atomically; gives its path.

    Args:
        image: A Pillow image (its mode and palette are kept), a bool array (H, W), written as
            0 and 255, or a uint8 array (H, W) or (H, W, 3); a UsageError for others.
        path: The file to make or to replace.
        make_folder: As in `atomic_path`, and so are the errors.
    """
    if isinstance(image, np.ndarray):
        image = _as_image(image)
    # Encoded in memory first: a full disk then fails in one write, with its errno.
    data = io.BytesIO()
    image.save(data, format="PNG")
    return _write_bytes(data.getvalue(), Path(path), make_folder=make_folder)


def write_json(value: object, path: str | Path) -> Path:
    """Write a JSON file (UTF-8, indented) atomically; gives its path.

    Numbers and arrays of NumPy and paths are converted.

    Raises:
        UsageError: The value holds NaN, an infinity or an object that JSON has no form for.
        OutputError: The file cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be written as JSON: {error}.") from error
    # File names that are no valid UTF-8 hold lone surrogates, which JSON writes as \udcXX.
    return _write_bytes((text + "\n").encode("utf-8", "backslashreplace"), Path(path))


def _write_bytes(data: bytes, path: Path, *, make_folder: bool = True) -> Path:
    with atomic_path(path, make_folder=make_folder) as temporary:
        temporary.write_bytes(data)
    return path


def _as_image(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim == 2 and array.dtype == np.bool_:
        return Image.fromarray(array * np.uint8(255))
    shown = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if not shown or array.dtype != np.uint8 or array.size == 0:
        raise UsageError(
            f"A PNG needs a bool array (H, W) or a uint8 array (H, W) or (H, W, 3), but this one "
            f"has the shape {array.shape} and the type {array.dtype}; convert it."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


@contextmanager
def advice_for(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into one sentence about the path (OutputError)."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, f"{error.strerror or error}; try another folder")
        raise OutputError(f"{path} cannot be written: {advice}.") from error
