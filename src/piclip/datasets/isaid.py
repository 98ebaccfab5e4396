"""iSAID-5i: aerial photographs in patches of 256 x 256, with class maps."""

from __future__ import annotations

from pathlib import Path

from piclip.datasets.dataset import fold_members
from piclip.datasets.file_dataset import FileDataset, Files
from piclip.datasets.prepared import SPLITS
from piclip.errors import DatasetError
from piclip.io.images import list_images

CLASS_NAMES = (
    "ship", "storage tank", "baseball diamond", "tennis court", "basketball court",
    "ground track field", "bridge", "large vehicle", "small vehicle", "helicopter",
    "swimming pool", "roundabout", "soccer ball field", "plane", "harbor",
)  # fmt: skip
_FOLDS = 3
_MASK_ENDING = "_instance_color_RGB.png"


class ISAID5i(FileDataset):
    """The layout of the published patches: ``SPLIT/images`` and ``SPLIT/semantic_png``.

    The class map of ``images/NAME.png`` is ``semantic_png/NAME_instance_color_RGB.png``; keys are
    NAME. Fold i holds the classes 5i to 5i + 4 (from 0) of 15, as SDM (caoql98/SDM) made it. The
    published lists of images by class are not read: an image counts for every class that it shows.

    Args:
        root: The folder with ``train`` and ``val``, of which one may be missing.
        minimum_pixels: An image counts for a class from here on.
        cache: Folder for the counts of pixels; None counts anew in every process.

    Raises:
        DatasetError: There is neither split, or a class map is missing.
    """

    def __init__(self, root: Path, *, minimum_pixels: int = 1, cache: Path | None = None) -> None:
        files = {split: _files(root / split) for split in SPLITS if (root / split).is_dir()}
        if not files:
            raise DatasetError(
                f"{root} holds neither train nor val; give the folder of the patches of iSAID-5i."
            )
        super().__init__(
            "isaid-5i",
            CLASS_NAMES,
            files=files,
            advice=f"put its folder into {root}",
            novel=fold_members(len(CLASS_NAMES), _FOLDS, "contiguous"),
            minimum_pixels=minimum_pixels,
            cache=cache,
        )


def _files(folder: Path) -> dict[str, Files]:
    masks = folder / "semantic_png"
    files = {
        image.stem: Files(image, masks / f"{image.stem}{_MASK_ENDING}")
        for image in list_images(folder / "images")
    }
    missing = [files[key].mask for key in sorted(files) if not files[key].mask.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of the {len(files)} images in {folder} have no class map (the first "
            f"is {missing[0]}); complete the folder."
        )
    return files
