"""The drawn world: scenes of glyphs whose every pixel is known."""

from piclip.datasets.scenes.scene import IMAGE_SIZE, WORLD, Layout, Scene, make_scene

__all__ = ["IMAGE_SIZE", "WORLD", "Layout", "Scene", "make_scene"]
