"""Download PASCAL VOC 2012, SBD and COCO 2014: checked, taken up again, safely unpacked."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from piclip.datasets.prepare.transfer import fetch
from piclip.datasets.prepare.unpack import unpack
from piclip.errors import OutputError, PiclipError, UsageError
from piclip.io.extras import needs_extra
from piclip.io.outputs import ensure_folder, write_json

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told (what is being done, bytes done, bytes in all where known)."""

_MIB = 1 << 20


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        name: Of the file.
        urls: Where it is, the first first.
        md5: Its checksum in hexadecimal digits.
        size: Its bytes.
        packed: Whether it is to be unpacked.
        needed: Whether nothing can be done without it.
    """

    name: str
    urls: tuple[str, ...]
    md5: str
    size: int
    packed: bool = True
    needed: bool = True


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


def download(dataset: str, out: Path, progress: Progress | None = None) -> list[str]:
    """Download and unpack the files of a dataset into a folder.

    Archives go to ``OUT/archives``; files that were put there by hand are checked and used. Once
    an archive is unpacked it may be deleted.

    Args:
        dataset: "pascal" or "coco".
        out: The folder, made if need be.
        progress: Told what is being done.

    Returns:
        One sentence for each file that could not be had but is not needed.

    Raises:
        UsageError: There is no such dataset, or pooch is not installed.
        PiclipError: A file cannot be downloaded, has another checksum or is damaged, or Ctrl-C
            was pressed; what has come stays, and the next run goes on.
        OutputError: The disk is full or cannot be written to.
    """
    if dataset not in ARCHIVES:
        raise UsageError(
            f"There is no dataset {dataset!r} to download; choose from {', '.join(ARCHIVES)}."
        )
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


def _provide(archive: Archive, out: Path, progress: Progress | None) -> None:
    folder = ensure_folder(out / "archives" if archive.packed else out)
    done = folder / f"{archive.name}.unpacked"
    if archive.packed and done.is_file():
        return
    file = download_archive(archive, folder, progress)
    if archive.packed:
        show = None if progress is None else _labelled(progress, f"Unpacking {archive.name}")
        count = unpack(file, out, show)
        write_json({"files": count}, done)


def download_archive(archive: Archive, folder: Path, progress: Progress | None = None) -> Path:
    """Download one file with pooch, from the first of its addresses that works.

    Args:
        archive: What to download.
        folder: Where it goes; a file of this name with the right checksum is used as it is.
        progress: Told what is being done.

    Returns:
        The file.

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
        show = None if progress is None else _labelled(progress, f"Downloading {archive.name}")
        fetch(url, part, progress=show)
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
                f"choose another folder."
            ) from error
    raise failure


def _check_space(archive: Archive, folder: Path, part: Path) -> None:
    """Refuse to start what cannot end: photographs hardly shrink in archives."""
    there = [path.stat().st_size for path in (folder / archive.name, part) if path.is_file()]
    needed = (2 if archive.packed else 1) * archive.size - max(there, default=0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder} has {free // _MIB} MiB free, but {archive.name} and its files need about "
            f"{needed // _MIB} MiB; free some space or choose another folder."
        )


def _labelled(progress: Progress, label: str) -> Callable[[int, int | None], None]:
    return lambda done, total: progress(label, done, total)
