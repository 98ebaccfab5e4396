"""The built-in world: procedural captioned scenes with exact masks.

20 classes, one to four objects on textured, cluttered ground, with occlusion, rotation, shear and
bending. A class has one or two typical colours and keeps them 85 % of the time; several classes
share a colour, so that shape must be learned. A scene is a pure function of (seed, index, layout):
the same on every machine and for every number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from piclip.datasets.dataset import check_choice
from piclip.datasets.scenes.glyphs import CLASS_GLYPHS, CLASS_NAMES, Glyph, glyph
from piclip.datasets.scenes.placement import Placement
from piclip.datasets.scenes.textures import camera, ground, noise, rgb, stripes
from piclip.errors import UsageError

IMAGE_SIZE = 128
TYPICAL_SHARE = 0.85

# Hue in degrees, one or two per class.
TYPICAL_HUES: dict[str, tuple[int, ...]] = {
    "airplane": (200, 240),
    "anchor": (220,),
    "arrow": (110, 350),
    "cat": (30, 45),
    "cloud": (205,),
    "cup": (15, 180),
    "dice": (350, 270),
    "envelope": (50, 165),
    "face": (52,),
    "flag": (0, 120),
    "flower": (320, 285),
    "hand": (25,),
    "heart": (345,),
    "horse": (20, 75),
    "moon": (60, 230),
    "scissors": (175, 0),
    "skull": (90, 140),
    "star": (48, 260),
    "telephone": (130, 10),
    "umbrella": (290, 195),
}


@dataclass(frozen=True)
class Layout:
    """How crowded a scene is.

    Attributes:
        size: side of the square image in pixels.
        objects: smallest and largest number of objects.
        scale: smallest and largest longest side of an object in pixels (the world's own scenes
            use 15 to 60 % of the image's side).
        clutter: largest number of distracting shapes.
    """

    size: int = IMAGE_SIZE
    objects: tuple[int, int] = (1, 4)
    scale: tuple[float, float] = (0.15 * IMAGE_SIZE, 0.60 * IMAGE_SIZE)
    clutter: int = 6


WORLD = Layout()
"""The layout that everything is measured on. It is fixed: changing it changes every figure."""


@dataclass(frozen=True)
class Scene:
    """One captioned image of the built-in world.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        class_map: uint8 (H, W); 0 is background, k is class ``CLASS_NAMES[k - 1]``.
        caption: what a person would write under it, e.g. "a photo of a cat and a star".
    """

    image: NDArray[np.uint8]
    class_map: NDArray[np.uint8]
    caption: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the visible classes, in the order of the table of classes."""
        return tuple(CLASS_NAMES[k - 1] for k in np.unique(self.class_map) if k > 0)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Where the class is visible, bool (H, W); UsageError for a class that no scene has."""
        return np.asarray(self.class_map == _class_index(name) + 1)


def make_scene(seed: int, index: int, layout: Layout = WORLD, include: str | None = None) -> Scene:
    """Draws one scene, in which at least 30 % of every object is visible.

    Args:
        seed: the world's seed; training, calibration and test use different ones.
        index: number of the scene, 0 or more.
        layout: how crowded it is.
        include: name of a class that must be among the objects.

    Raises:
        UsageError: There is no class ``include``, or no scene of this layout.
    """
    wanted = None if include is None else _class_index(include)
    for attempt in range(20):
        rng = np.random.default_rng([seed, index, attempt])
        scene = _draw_scene(rng, layout, wanted)
        if scene is not None:
            return scene
    raise UsageError(f"No scene with {layout} could be drawn; allow fewer or smaller objects.")


def _class_index(name: str) -> int:
    check_choice("class of the scenes", name, CLASS_NAMES)
    return CLASS_NAMES.index(name)


def _draw_scene(rng: np.random.Generator, layout: Layout, include: int | None) -> Scene | None:
    """Draws one scene, None where an object is hidden too much; ``include`` is a class index."""
    count = int(rng.integers(layout.objects[0], layout.objects[1] + 1))
    again = rng.random() < 0.2 or count > len(CLASS_NAMES)
    classes = [int(k) for k in rng.choice(len(CLASS_NAMES), count, replace=again)]
    if include is not None and include not in classes:
        classes[int(rng.integers(count))] = include

    canvas = ground(rng, layout.size, layout.clutter)
    owner = np.zeros((layout.size, layout.size), dtype=np.uint8)
    areas = []
    for number, class_index in enumerate(classes, start=1):
        name = CLASS_NAMES[class_index]
        shape = glyph(str(rng.choice(list(CLASS_GLYPHS[name]))))
        body = _body_colour(rng, name)
        inside = _paint(rng, canvas, shape, body, layout)
        owner[inside] = number
        areas.append(int(inside.sum()))
    visible = np.bincount(owner.ravel(), minlength=count + 1)[1:]
    if any(v < 0.3 * a or v < 12 for v, a in zip(visible, areas, strict=True)):
        return None

    lookup = np.array([0] + [k + 1 for k in classes], dtype=np.uint8)
    image = camera(rng, canvas)
    names = sorted({CLASS_NAMES[k] for k in classes}, key=CLASS_NAMES.index)
    return Scene(image, lookup[owner], "a photo of " + _enumerate(names))


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _paint(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    shape: Glyph,
    body: NDArray[np.float32],
    layout: Layout,
) -> NDArray[np.bool_]:
    """Draws one bent, textured object onto the canvas; returns where it is, bool (H, W)."""
    low, high = layout.scale
    placement = Placement.draw(rng, shape.silhouette.size, rng.uniform(low, high), layout.size)
    alpha, lines = (placement.warp(image) for image in (shape.silhouette, shape.ink))
    light = 1.0 + 0.25 * noise(rng, alpha.shape, int(rng.integers(2, 7)))
    if rng.random() < 0.25:
        light = light + stripes(rng, alpha.shape)
    ink_strength = rng.uniform(0.45, 0.8) * (1 if rng.random() < 0.8 else -0.6)
    light = light * (1.0 - ink_strength * lines)
    region = canvas[placement.window]
    region += alpha[..., None] * (body * light[..., None] - region)
    inside = np.zeros(canvas.shape[:2], dtype=bool)
    inside[placement.window] = alpha > 0.5
    return inside


def _body_colour(rng: np.random.Generator, name: str) -> NDArray[np.float32]:
    hues = TYPICAL_HUES[name]
    if rng.random() < TYPICAL_SHARE:
        hue = float(rng.choice(hues)) + rng.normal(0, 8)
    else:
        hue = rng.uniform(0, 360)
    return rgb(hue, rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0))
