"""Figures that others have published, to stand beside ours in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The mean mIoU over the four folds of a method with its own prior, on ResNet-50.

    Attributes:
        method: The decoder's name.
        dataset: Which benchmark.
        miou: Percent, by number of shots.
        source: Where the figures stand.
    """

    method: str
    dataset: str
    miou: Mapping[int, float]
    source: str
    prior: str = "imagenet"
    backbone: str = "resnet50"


PUBLISHED = (
    Published("pfenet", "pascal-5i", {1: 60.8, 5: 61.9}, "arXiv 2008.01449"),
    Published("bam", "pascal-5i", {1: 67.8, 5: 70.9}, "arXiv 2203.07615"),
    Published("hdmnet", "pascal-5i", {1: 69.4, 5: 71.8}, "arXiv 2303.14652"),
    # PFENet's own paper has no ResNet-50 on COCO-20i; later ones print this figure.
    Published("pfenet", "coco-20i", {1: 35.8, 5: 39.0}, "arXiv 2405.08458"),
    Published("bam", "coco-20i", {1: 46.2, 5: 51.2}, "arXiv 2203.07615"),
    Published("hdmnet", "coco-20i", {1: 50.0, 5: 56.0}, "arXiv 2303.14652"),
)
