"""A folder of labelled photographs in VOC's layout, small and drawn."""

import numpy as np
from PIL import Image

from piclip.io.overlays import class_map_image


def write_photographs(folder, *, classes, images, size=(48, 60)):
    """Images ``CLASS_NUMBER``, each with a coloured block of the class and a border of 255."""
    rng, lines = np.random.default_rng(0), []
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "SegmentationClassAug").mkdir()
    for class_index in range(classes):
        colour = rng.integers(0, 256, 3)
        for number in range(images):
            key = f"{class_index}_{number}"
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            class_map = np.zeros(size, dtype=np.uint8)
            left = int(rng.integers(0, size[1] - 40))
            class_map[4:44, left : left + 40] = 255
            class_map[5:43, left + 1 : left + 39] = class_index + 1
            image[class_map == class_index + 1] = colour
            Image.fromarray(image).save(folder / "JPEGImages" / f"{key}.jpg")
            class_map_image(class_map).save(folder / "SegmentationClassAug" / f"{key}.png")
            lines.append(f"JPEGImages/{key}.jpg SegmentationClassAug/{key}.png\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder
