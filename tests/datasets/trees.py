"""Small VOC, SBD and COCO trees as their archives unpack to."""

import json

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from piclip.io.overlays import class_map_image

SIZE = (12, 16)  # height, width


def labels(*, value, border=False):
    """A class map with an object of 6 x 8 pixels, and VOC's 255 around it if asked for."""
    class_map = np.zeros(SIZE, dtype=np.uint8)
    if border:
        class_map[2:10, 2:12] = 255
    class_map[3:9, 3:11] = value
    return class_map


def write_photo(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), "gray").save(path)


def write_voc_mask(path, class_map):
    path.parent.mkdir(parents=True, exist_ok=True)
    class_map_image(class_map).save(path)


def write_class_mat(path, class_map):
    """``cls/KEY.mat`` with SBD's fields: a struct with a cell of sparse boundaries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = csc_matrix(class_map == index + 1, dtype=np.float64)
    present = np.setdiff1d(class_map, [0]).reshape(-1, 1)
    struct = {"Boundaries": boundaries, "Segmentation": class_map, "CategoriesPresent": present}
    savemat(path, {"GTcls": struct}, do_compression=True)


def write_instance_mat(path, objects, categories):
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = {
        "Segmentation": objects,
        "Categories": np.array(categories, dtype=np.uint8).reshape(-1, 1),
    }
    savemat(path, {"GTinst": struct}, do_compression=True)


def write_list(path, keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}\n" for key in keys))


VOC_TRAIN, VOC_VAL = ("2007_000001", "2008_000002"), ("2007_000003", "2008_000004")
SBD_MAIN_TRAIN, SBD_OTHER = ("2008_000005", "2008_000006"), ("2008_000007",)
EVERY = (*VOC_TRAIN, *VOC_VAL, *SBD_MAIN_TRAIN, *SBD_OTHER)


def voc_and_sbd(folder):
    """VOC masks hold class 1 with a border; SBD holds class 2, also for two images of VOC."""
    voc, sbd = folder / "VOCdevkit" / "VOC2012", folder / "benchmark_RELEASE" / "dataset"
    for key in EVERY:
        write_photo(voc / "JPEGImages" / f"{key}.jpg")
    for key in (*VOC_TRAIN, *VOC_VAL):
        write_voc_mask(voc / "SegmentationClass" / f"{key}.png", labels(value=1, border=True))
    for key in (*SBD_MAIN_TRAIN, *SBD_OTHER, VOC_TRAIN[1], VOC_VAL[1]):
        write_class_mat(sbd / "cls" / f"{key}.mat", labels(value=2))
    write_list(voc / "ImageSets" / "Segmentation" / "train.txt", VOC_TRAIN)
    write_list(voc / "ImageSets" / "Segmentation" / "val.txt", VOC_VAL)
    write_list(voc / "ImageSets" / "Main" / "train.txt", (VOC_TRAIN[1], *SBD_MAIN_TRAIN, "2010_1"))
    return voc, sbd


COCO_IDS = [n for n in range(1, 91) if n not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def box(number, category, corners, *, image=1, crowd=False):
    """An annotation that covers the pixels top:bottom, left:right."""
    top, bottom, left, right = corners
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    if crowd:
        mask = np.zeros(SIZE, dtype=bool)
        mask[top:bottom, left:right] = True
        outline = {"size": list(SIZE), "counts": runs(mask)}
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": outline,
        "iscrowd": int(crowd),
    }


def runs(mask):
    """COCO's uncompressed run lengths, column by column, beginning with zeros."""
    counts, current = [], False
    for value in mask.T.ravel():
        if not counts or value != current:
            counts += [0] if not counts and value else []
            counts.append(0)
            current = value
        counts[-1] += 1
    return [int(count) for count in counts]


def coco(folder, annotations, *, split="val", images=1):
    """``images`` photographs (numbered from 1) and an annotation file of a split."""
    listed = []
    for number in range(1, images + 1):
        name = f"COCO_{split}2014_{number:012d}.jpg"
        write_photo(folder / f"{split}2014" / name)
        listed.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    file = folder / "annotations" / f"instances_{split}2014.json"
    file.parent.mkdir(exist_ok=True)
    categories = [{"id": number, "name": f"class {number}"} for number in COCO_IDS]
    data = {"images": listed, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(data))
    return file
