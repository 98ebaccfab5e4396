"""Turn what was found in an image into a prediction that fits the project's configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from piclip.annotation.sinks import certainty_of
from piclip.formats import labelstudio
from piclip.formats.labels import LabelledFile, Region
from piclip.formats.polygons import outlines, simplified
from piclip.formats.predicted import from_segmentation
from piclip.label_studio.tasks import LabellingConfig

if TYPE_CHECKING:
    from piclip.results import Segmentation

_DIGITS = 4
_TOLERANCE = 1.0  # pixels by which a polygon may miss the outline, so that people can edit it


Answer = dict[str, Any] | list[dict[str, Any]]
"""What a backend answers for a task: a prediction, or a list of any number of them.

The list is empty where nothing can be said: nothing is learned, or the image cannot be had. A
prediction without regions says that none of the classes is in the image. Label Studio keeps it and
shows it beside later ones, makes an annotation of it with the others, and asks no more when the
task is opened in the Data Manager.
"""


def to_prediction(
    segmentation: Segmentation, config: LabellingConfig, model_version: str
) -> dict[str, Any]:
    """One brush region per class, or polygons for classes that have no brush.

    The prediction's score is its certainty (`piclip.annotation.sinks.certainty_of`), so that Label
    Studio can show the least certain tasks first; each region's score is the mean over its pixels,
    and its note says how likely its class is to be in the image. A class that is not likely enough
    has no region.
    """
    file = from_segmentation(segmentation, instances=False)
    results = []
    for region in file.regions:
        if control := config.control_for(region.class_name):
            if control.kind == "brushlabels":
                alone = replace(file, regions=(region,))
                shapes = labelstudio.to_prediction(alone)["result"]
            else:
                shapes = _polygons(file, region)
            names = {"from_name": control.name, "to_name": config.image, "type": control.kind}
            results += [shape | names for shape in shapes]
    return {
        "model_version": model_version,
        "score": round(certainty_of(segmentation), _DIGITS),
        "result": [result | {"id": f"piclip{n}"} for n, result in enumerate(results)],
    }


def _polygons(file: LabelledFile, region: Region) -> list[dict[str, Any]]:
    """One polygon for each connected part; Label Studio's polygons have no holes."""
    percent = 100 / np.array([file.width, file.height])
    values = (
        {
            "points": np.round(corners * percent, _DIGITS).tolist(),
            "closed": True,
            "polygonlabels": [region.class_name],
        }
        for loops in outlines(region.mask.to_array())
        if len(corners := simplified(loops[0], _TOLERANCE)) > 2
    )
    return [labelstudio.to_result(file, region, value) for value in values]
