"""The drawn world: scenes of glyphs whose every pixel is known."""

from piclip.datasets.scenes.scene import (
    FOLDS,
    IMAGE_SIZE,
    WORLD,
    Layout,
    Scene,
    fold_classes,
    make_scene,
)

__all__ = [
    "FOLDS",
    "IMAGE_SIZE",
    "WORLD",
    "Layout",
    "Scene",
    "fold_classes",
    "make_scene",
]
