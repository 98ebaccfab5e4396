"""Labels of other tools in, proposals for them out.

Six formats, each a module with the same three functions: ``recognise(source)`` tells whether it is
the one, ``read(source, images=...)`` gives `Labels`, ``write(labels, destination)`` writes them.
What each loses is said in its module: `coco`, `labelstudio`, `labelme`, `yolo`, `voc` and `masks`;
`cvat` is only read, and `write_overlays` draws labels to look at.

>>> from piclip.formats import read_labels, write_labels, from_segmentation, Labels
>>> labels = read_labels("labels.json", images="photos")                   # doctest: +SKIP
>>> segmenter.fit(labels.supports("photos"))                               # doctest: +SKIP
>>> queries = labels.unlabelled("photos")                                  # doctest: +SKIP
>>> found = [from_segmentation(s, path.name)                               # doctest: +SKIP
...          for s, path in zip(segmenter.predict(queries), queries)]
>>> write_labels(Labels(labels.class_names, tuple(found)), "out.json", format="coco")
... # doctest: +SKIP

Needs the extra [formats] (pycocotools; for Label Studio its SDK, for ``to_supervision`` the library
supervision), which is imported when it is first used.
"""

from piclip.formats.detections import to_detection_dataset
from piclip.formats.labels import LabelledFile, Labels, Region
from piclip.formats.predicted import from_segmentation
from piclip.formats.registry import (
    FORMATS,
    detect,
    get_format,
    read_labels,
    write_labels,
    write_overlays,
)
from piclip.formats.run_length import RunLengthMask

__all__ = [
    "FORMATS",
    "LabelledFile",
    "Labels",
    "Region",
    "RunLengthMask",
    "detect",
    "from_segmentation",
    "get_format",
    "read_labels",
    "to_detection_dataset",
    "write_labels",
    "write_overlays",
]
