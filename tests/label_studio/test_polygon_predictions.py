"""Polygons are proposed with what the extra brings, and few enough corners to edit."""

import sys

import numpy as np

from piclip.label_studio.predictions import to_prediction
from piclip.label_studio.tasks import Control, LabellingConfig
from piclip.results import Segmentation

CONFIG = LabellingConfig("photo", "image", (Control("polygonlabels", "shape", ("cat",)),))


def test_polygons_need_no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # importing it fails
    y, x = np.mgrid[:100, :100]
    disc = (x - 50) ** 2 + (y - 40) ** 2 < 900
    scores = disc[None].astype(np.float32)
    found = Segmentation(("cat",), disc.astype(np.uint8), scores, None, None, "photo")
    [result] = to_prediction(found, CONFIG, "piclip-1", 0.5)["result"]
    points = np.array(result["value"]["points"])
    assert 8 <= len(points) <= 40
    np.testing.assert_allclose(np.linalg.norm(points - [50, 40], axis=1), 30, atol=1.5)
