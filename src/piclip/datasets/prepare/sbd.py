"""Read the ``.mat`` files of SBD, the Semantic Boundaries Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from piclip.datasets.prepare.preparation import ClassMap, names_in
from piclip.errors import MaskError, UsageError
from piclip.io.documents import check_regular

_Values: TypeAlias = npt.NDArray[Any]


class SbdMasks:
    """Class masks of an SBD folder.

    Attributes:
        folder: The folder with ``cls`` (class masks) or ``inst`` (masks of single objects).
        keys: Stems of the images that have a mask.
    """

    def __init__(self, root: Path) -> None:
        """Find the masks in ``root`` or in the folders that the archive unpacks to.

        Raises:
            UsageError: There is neither ``cls`` nor ``inst``.
        """
        self.folder = find_folder(
            root, ("", "dataset", "benchmark_RELEASE/dataset"), ("cls", "inst"), "SBD"
        )
        self._kind = "cls" if (self.folder / "cls").is_dir() else "inst"
        self.keys = frozenset(names_in(self.folder / self._kind, ".mat"))

    @property
    def train_noval(self) -> Path | None:
        """SBD's list of images outside of VOC 2012 val, where it has been put into the folder."""
        for folder in (self.folder, self.folder.parent, self.folder.parent.parent):
            if (folder / "train_noval.txt").is_file():
                return folder / "train_noval.txt"
        return None

    def read(self, key: str) -> ClassMap:
        """Read the class map uint8 (H, W) of an image; its values are those of VOC.

        Raises:
            MaskError: The file is missing or damaged.
        """
        path = self.folder / self._kind / f"{key}.mat"
        return read_class_mat(path) if self._kind == "cls" else read_instance_mat(path)


def read_class_mat(path: Path) -> ClassMap:
    """Read ``cls/KEY.mat``: the field Segmentation of the struct GTcls.

    Raises:
        MaskError: The file is missing, damaged or of another structure.
    """
    return _as_class_map(_field(_struct(path, "GTcls"), "Segmentation", path), path)


def read_instance_mat(path: Path) -> ClassMap:
    """Read ``inst/KEY.mat``: object numbers (GTinst.Segmentation) looked up in their Categories.

    Raises:
        MaskError: The file is missing, damaged or of another structure.
    """
    struct = _struct(path, "GTinst")
    objects = _as_class_map(_field(struct, "Segmentation", path), path)
    categories = np.asarray(_field(struct, "Categories", path)).ravel()
    if categories.size and not (categories.min() >= 1 and categories.max() <= 254):
        raise MaskError(f"{path}: the categories of the objects are no class numbers.")
    classes = np.concatenate([[0], categories]).astype(np.uint8)
    if objects.max() >= len(classes):
        raise MaskError(
            f"{path}: object {objects.max()} has no category among the {len(classes) - 1} listed; "
            f"unpack the archive again."
        )
    return np.asarray(classes[objects])


def find_folder(root: Path, places: tuple[str, ...], markers: tuple[str, ...], name: str) -> Path:
    """The first of the places below ``root`` that holds one of the marker folders.

    Raises:
        UsageError: There is none.
    """
    for place in places:
        if any((root / place / marker).is_dir() for marker in markers):
            return root / place
    wanted = " or ".join(markers)
    raise UsageError(
        f"{root} is no folder of {name}: {wanted} is not in it; give the folder that holds it."
    )


def _struct(path: Path, name: str) -> dict[str, _Values]:
    """The fields of a MATLAB struct."""
    from scipy.io import loadmat  # noqa: PLC0415 - slow to import, and only needed here

    try:
        check_regular(path)
        with path.open("rb") as file:
            record = loadmat(file, variable_names=[name])[name][0, 0]
            return {field: record[field] for field in record.dtype.names}
    except Exception as error:  # SciPy's reader raises anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(
            f"{path}: the file cannot be read as a mask of SBD ({reason}); unpack the archive "
            f"again."
        ) from error


def _field(struct: dict[str, _Values], name: str, path: Path) -> _Values:
    try:
        return struct[name]
    except KeyError as error:
        raise MaskError(
            f"{path}: the file has no {name} and so is no mask of SBD; unpack the archive again."
        ) from error


def _as_class_map(array: _Values, path: Path) -> ClassMap:
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "ui":
        raise MaskError(
            f"{path}: the Segmentation is no matrix of whole numbers; unpack the archive again."
        )
    if array.min() < 0 or array.max() > 255:
        raise MaskError(f"{path}: the Segmentation holds values beyond 0 to 255.")
    return array.astype(np.uint8)
