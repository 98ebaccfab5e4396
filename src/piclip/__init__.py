"""Few-shot segmentation with training-free CLIP priors (PI-CLIP, arXiv 2405.08458).

>>> from piclip import FewShotSegmenter, Support
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piclip.errors import PiclipError
    from piclip.formats.predicted import merge_coco
    from piclip.io.supports import Support
    from piclip.results import Priors, Segmentation
    from piclip.segmenter import FewShotSegmenter

__version__ = "0.1.0"
__all__ = ["FewShotSegmenter", "PiclipError", "Priors", "Segmentation", "Support", "merge_coco"]

_HOMES = {
    "FewShotSegmenter": "piclip.segmenter",
    "PiclipError": "piclip.errors",
    "Priors": "piclip.results",
    "Segmentation": "piclip.results",
    "Support": "piclip.io.supports",
    "merge_coco": "piclip.formats.predicted",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used, so that ``import piclip`` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'piclip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
