"""Polygons are proposed with what the extra brings, and few enough corners to edit."""

import sys

import numpy as np
import pytest

from piclip.label_studio.predictions import to_prediction
from piclip.label_studio.tasks import Control, LabellingConfig
from piclip.results import Segmentation

CONFIG = LabellingConfig("photo", "image", (Control("polygonlabels", "shape", ("cat",)),))


@pytest.mark.parametrize("kind", ["brushlabels", "polygonlabels"])
def test_a_region_tells_the_presence_of_its_class_and_an_absent_class_has_none(kind):
    config = LabellingConfig("photo", "image", (Control(kind, "shape", None),))
    scores = np.stack([np.full((8, 8), 0.9, np.float32), np.full((8, 8), 0.95, np.float32)])
    blank = np.zeros((8, 8), dtype=np.uint8)
    presence = np.array([0.75, 0.25], dtype=np.float32)
    found = Segmentation(("cat", "dog"), blank, scores, None, None, "photo", presence=presence)
    prediction = to_prediction(found.at_threshold(0.5), config, "piclip-1")
    [result] = prediction["result"]
    assert result["value"][kind] == ["cat"]
    assert result["meta"] == {"text": ["presence 0.7500"]}
    assert prediction["score"] == 0.75
    nothing = to_prediction(found.at_threshold(0.5, min_presence=0.8), config, "piclip-1")
    assert nothing["result"] == []
    assert nothing["score"] == 0.25


def test_polygons_need_no_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # importing it fails
    y, x = np.mgrid[:100, :100]
    disc = (x - 50) ** 2 + (y - 40) ** 2 < 900
    scores = disc[None].astype(np.float32)
    found = Segmentation(("cat",), disc.astype(np.uint8), scores, None, None, "photo")
    [result] = to_prediction(found, CONFIG, "piclip-1")["result"]
    points = np.array(result["value"]["points"])
    assert 8 <= len(points) <= 40
    np.testing.assert_allclose(np.linalg.norm(points - [50, 40], axis=1), 30, atol=1.5)
