"""Download PASCAL VOC 2012, SBD and COCO 2014: checked, taken up again, safely unpacked.

pooch checks the files. It does not take up what broke off, so requests appends to a file beside the
archive what the server has beyond it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from piclip import __version__
from piclip.datasets.dataset import check_choice
from piclip.datasets.prepare.unpack import unpack
from piclip.errors import OutputError, PiclipError
from piclip.io.extras import needs_extra
from piclip.io.outputs import ensure_folder, write_json

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told (what is being done, bytes done, bytes in all where known)."""

_MIB = 1 << 20
_CHUNK = 1 << 16
_ATTEMPTS = 5  # in a row that bring nothing
_PAUSE = 2.0  # seconds between attempts
_TIMEOUT = 60.0  # seconds without a byte
_UNSATISFIABLE = 416


@dataclass(frozen=True)
class Archive:
    """One file to download."""

    name: str
    urls: tuple[str, ...]  # where it is, the first first
    md5: str
    size: int  # bytes
    packed: bool = True  # it is to be unpacked
    needed: bool = True  # nothing can be done without it


# The checksums are those that public code checks against (torchvision for VOC and SBD); COCO
# publishes none, and those of its archives are what several independent projects give.
_BERKELEY = "eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "pascal": (
        Archive(
            "VOCtrainval_11-May-2012.tar",
            (
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar",
            ),
            md5="6cd6e144f989b92b3379bac3b3de84fd",
            size=1_999_639_040,
        ),
        Archive(
            "benchmark.tgz",
            (f"https://www2.{_BERKELEY}", f"http://www.{_BERKELEY}"),
            md5="82b4d87ceb2ed10f6038a1cba92111cb",
            size=1_419_539_633,
        ),
        # A list of 5623 names; prepare_pascal can do without it.
        Archive(
            "train_noval.txt",
            (
                "http://home.bharathh.info/pubs/codes/SBD/train_noval.txt",
                "https://www.cs.cornell.edu/~bharathh/train_noval.txt",
            ),
            md5="79bff800c5f0b1ec6b21080a3c066722",
            size=67_476,
            packed=False,
            needed=False,
        ),
    ),
    "coco": tuple(
        Archive(path.rpartition("/")[2], (f"http://images.cocodataset.org/{path}",), md5, size)
        for path, md5, size in (
            (
                "annotations/annotations_trainval2014.zip",
                "0a379cfc70b0e71301e0f377548639bd",
                252_872_794,
            ),
            ("zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", 6_645_013_297),
            ("zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", 13_510_573_713),
        )
    ),
}


def _unheard(_label: str, _done: int, _total: int | None) -> None:
    """A `Progress` for nobody."""


def download(dataset: str, out: Path, progress: Progress = _unheard) -> list[str]:
    """Download and unpack the files of a dataset; gives a sentence for each that is left out.

    Archives go to ``OUT/archives``; files that were put there by hand are checked and used. Once
    an archive is unpacked it may be deleted.

    Args:
        dataset: "pascal" or "coco".
        out: The folder, made if need be.
        progress: Told what is being done.

    Raises:
        UsageError: There is no such dataset, or pooch is not installed.
        PiclipError: A file cannot be downloaded, has another checksum or is damaged, or Ctrl-C
            was pressed; what has come stays, and the next run goes on.
        OutputError: The disk is full or cannot be written to.
    """
    check_choice("dataset", dataset, ARCHIVES)
    notes = []
    try:
        for archive in ARCHIVES[dataset]:
            try:
                _provide(archive, out, progress)
            except OutputError:
                raise
            except PiclipError as error:
                if archive.needed:
                    raise
                notes.append(f"{archive.name} is not needed and was left out: {error}")
    except KeyboardInterrupt as error:
        raise PiclipError(
            "Stopped; run the same command again to go on: what has come is kept."
        ) from error
    return notes


def _provide(archive: Archive, out: Path, progress: Progress) -> None:
    if not archive.packed:
        download_archive(archive, ensure_folder(out), progress)
        return
    folder = ensure_folder(out / "archives")
    done = folder / f"{archive.name}.unpacked"
    if not done.is_file():
        file = download_archive(archive, folder, progress)
        write_json({"files": unpack(file, out, partial(progress, f"Unpacking {file.name}"))}, done)


def download_archive(archive: Archive, folder: Path, progress: Progress = _unheard) -> Path:
    """Download one file into a folder, from the first of its addresses that works.

    A file of this name with the right checksum is used as it is.

    Raises:
        PiclipError: No address works, or the file has another checksum.
        OutputError: The disk is full or cannot be written to.
        UsageError: pooch is not installed.
    """
    with needs_extra("data", "Downloading"):
        import pooch  # noqa: PLC0415 - an extra
    pooch.get_logger().setLevel(logging.ERROR)  # the progress bar says the same
    part = folder / f".{archive.name}.part"
    _check_space(archive, folder, part)

    def resuming(url: str, output_file: str, _pooch: object) -> None:
        _fetch(url, part, archive, progress)
        part.replace(output_file)

    failure = PiclipError(f"{archive.name} has no address to download from.")
    for url in archive.urls:
        try:
            found = pooch.retrieve(
                url, f"md5:{archive.md5}", fname=archive.name, path=folder, downloader=resuming
            )
            return Path(found)
        except OutputError:
            raise
        except PiclipError as error:
            failure = error
        except ValueError as error:
            failure = PiclipError(
                f"{url} is not the file it should be (its md5 is not {archive.md5}); it was "
                f"removed, run the same command again or put the right file into {folder}."
            )
            failure.__cause__ = error
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written ({error.strerror or error}); free some space or "
                f"choose another folder and run the same command again: what has come is kept."
            ) from error
    raise failure


def _check_space(archive: Archive, folder: Path, part: Path) -> None:
    """Refuse to start what cannot end: photographs hardly shrink in archives."""
    there = max(_size(folder / archive.name), _size(part))
    needed = (2 if archive.packed else 1) * archive.size - there
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder} has {free // _MIB} MiB free, but {archive.name} and its files need about "
            f"{needed // _MIB} MiB; free some space or choose another folder."
        )


def _fetch(url: str, part: Path, archive: Archive, progress: Progress) -> None:
    """Download to a file; bytes that are already in it are not fetched again."""
    import requests  # noqa: PLC0415 - comes with pooch

    reason, failures = "", 0
    while failures < _ATTEMPTS:
        before = _size(part)
        try:
            return _continue(url, part, archive, progress)
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            reason = f"the server answers {status}"
            if status == _UNSATISFIABLE:  # the file there is shorter than what is here
                part.unlink(missing_ok=True)
            elif status < 500:
                raise PiclipError(
                    f"{url} cannot be downloaded: {reason}; get the file elsewhere and put it "
                    f"beside the others."
                ) from error
        except requests.RequestException as error:
            reason = " ".join(str(error).split())
        failures = 0 if _size(part) > before else failures + 1
        time.sleep(_PAUSE)
    raise PiclipError(
        f"{url} could not be downloaded ({reason}); {_size(part)} bytes are kept, run the same "
        f"command again to go on."
    )


def _continue(url: str, part: Path, archive: Archive, progress: Progress) -> None:
    """One connection: append what it brings."""
    import requests  # noqa: PLC0415 - an extra

    if _size(part) > archive.size:
        part.unlink()
    have = _size(part)
    if have == archive.size:
        return
    headers = {"User-Agent": f"piclip/{__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        # Of status 200 all of it comes, whatever was asked for.
        with part.open("wb" if response.status_code == 200 else "ab") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                progress(f"Downloading {archive.name}", file.tell(), archive.size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
