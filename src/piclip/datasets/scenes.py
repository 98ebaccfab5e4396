"""The built-in world: procedural captioned scenes with exact masks.

20 classes in 4 folds of 5, one to four objects on textured, cluttered ground, with occlusion,
rotation, shear and bending. A class has one or two typical colours and keeps them 85 % of the
time; several classes share a colour, so that shape must be learned. A scene is a pure function of
(seed, index, layout): the same on every machine and for every number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from piclip.datasets.glyphs import CLASS_GLYPHS, CLASS_NAMES, CLUTTER_GLYPHS, MARGIN, Glyph, glyph
from piclip.errors import UsageError

IMAGE_SIZE = 128
FOLDS = 4
TYPICAL_SHARE = 0.85

# Hue in degrees, one or two per class; the fold of class c (0-based) is c // 5, as in PASCAL-5i.
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
        """Where the class is visible, bool (H, W)."""
        if name not in CLASS_NAMES:
            raise UsageError(f"'{name}' is no class of the scenes; choose from {list(CLASS_NAMES)}")
        return np.asarray(self.class_map == CLASS_NAMES.index(name) + 1)


def fold_classes(fold: int) -> tuple[str, ...]:
    """The five novel classes of a fold, 0 to 3."""
    if not 0 <= fold < FOLDS:
        raise UsageError(f"there is no fold {fold} of the scenes; choose 0 to {FOLDS - 1}")
    return CLASS_NAMES[5 * fold : 5 * fold + 5]


def make_scene(seed: int, index: int, layout: Layout = WORLD, include: str | None = None) -> Scene:
    """Draws one scene.

    Args:
        seed: the world's seed; training, calibration and test use different ones.
        index: number of the scene, 0 or more.
        layout: how crowded it is.
        include: name of a class that must be among the objects.

    Returns:
        The scene; every object that its caption names covers at least 30 % of its own silhouette.
    """
    for attempt in range(20):
        rng = np.random.default_rng([seed, index, attempt])
        scene = _draw_scene(rng, layout, include)
        if scene is not None:
            return scene
    raise UsageError(f"no scene with {layout} could be drawn; allow fewer or smaller objects")


def _draw_scene(rng: np.random.Generator, layout: Layout, include: str | None) -> Scene | None:
    count = int(rng.integers(layout.objects[0], layout.objects[1] + 1))
    again = rng.random() < 0.2 or count > len(CLASS_NAMES)
    classes = [int(k) for k in rng.choice(len(CLASS_NAMES), count, replace=again)]
    if include is not None and CLASS_NAMES.index(include) not in classes:
        classes[int(rng.integers(count))] = CLASS_NAMES.index(include)

    canvas = _background(rng, layout)
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
    image = _camera(rng, canvas)
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
) -> NDArray[np.float32]:
    """Draws one bent, textured object onto the canvas; returns where it is, bool (H, W)."""
    low, high = layout.scale
    placement = _Placement.draw(rng, shape.silhouette.size, rng.uniform(low, high), layout.size)
    alpha, lines = (placement.warp(image) for image in (shape.silhouette, shape.ink))
    light = 1.0 + 0.25 * _noise(rng, alpha.shape, int(rng.integers(2, 7)))
    if rng.random() < 0.25:
        light = light + _stripes(rng, alpha.shape)
    ink_strength = rng.uniform(0.45, 0.8) * (1 if rng.random() < 0.8 else -0.6)
    light = light * (1.0 - ink_strength * lines)
    region = canvas[placement.window]
    region += alpha[..., None] * (body * light[..., None] - region)
    inside = np.zeros(canvas.shape[:2], dtype=bool)
    inside[placement.window] = alpha > 0.5
    return inside


@dataclass(frozen=True)
class _Placement:
    """Where and how bent a glyph lies on the canvas: a 2 x 2 mesh of source quads."""

    box: tuple[int, int, int, int]
    mesh: list[tuple[tuple[int, ...], tuple[float, ...]]]
    canvas: int

    @classmethod
    def draw(
        cls, rng: np.random.Generator, source: tuple[int, int], longest: float, canvas: int
    ) -> _Placement:
        width, height = source
        scale = longest / (max(source) - 2 * MARGIN)
        angle = np.deg2rad(rng.uniform(-40, 40))
        stretch = np.exp(rng.normal(0, 0.12))
        shear = rng.normal(0, 0.12)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = rotation @ np.array([[stretch, shear], [0.0, 1 / stretch]]) * scale
        if rng.random() < 0.5:
            linear[:, 0] *= -1
        corners = np.array([[x, y] for x in (-width, width) for y in (-height, height)]) / 2
        extent = np.abs(corners @ linear.T).max(axis=0) + 1
        # The centre stays inside the picture, so objects may be cut by its border a little.
        reach = np.minimum(extent * 0.75, canvas / 2)
        centre = rng.uniform(reach, canvas - reach)
        x0, y0 = np.floor(centre - extent).astype(int)
        x1, y1 = np.ceil(centre + extent).astype(int)

        xs, ys = np.linspace(x0, x1, 4).round(), np.linspace(y0, y1, 4).round()
        grid = np.stack(np.meshgrid(xs, ys, indexing="xy"), axis=-1)
        back = (grid - centre) @ np.linalg.inv(linear).T + np.array([width, height]) / 2
        back += rng.normal(0, 0.035 * max(source), back.shape)
        mesh = []
        for row in range(3):
            for column in range(3):
                target = (xs[column] - x0, ys[row] - y0, xs[column + 1] - x0, ys[row + 1] - y0)
                quad = [back[row, column], back[row + 1, column]]
                quad += [back[row + 1, column + 1], back[row, column + 1]]
                mesh.append(
                    (tuple(int(v) for v in target), tuple(float(v) for v in np.concatenate(quad)))
                )
        return cls((int(x0), int(y0), int(x1), int(y1)), mesh, canvas)

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of the box that lies on the canvas."""
        x0, y0, x1, y1 = self.box
        return slice(max(y0, 0), min(y1, self.canvas)), slice(max(x0, 0), min(x1, self.canvas))

    def warp(self, image: Image.Image) -> NDArray[np.float32]:
        """The image within ``window``, float32 in [0, 1]."""
        x0, y0, x1, y1 = self.box
        # Supersampling by two keeps thin parts smooth where the glyph shrinks.
        doubled = [(tuple(2 * v for v in box), quad) for box, quad in self.mesh]
        size = (2 * (x1 - x0), 2 * (y1 - y0))
        warped = image.transform(
            size, Image.Transform.MESH, doubled, Image.Resampling.BILINEAR, fillcolor=0
        ).reduce(2)
        rows, columns = self.window
        seen = np.asarray(warped)[
            rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0
        ]
        return np.asarray(seen, dtype=np.float32) / 255.0


def _body_colour(rng: np.random.Generator, name: str) -> NDArray[np.float32]:
    hues = TYPICAL_HUES[name]
    if rng.random() < TYPICAL_SHARE:
        hue = float(rng.choice(hues)) + rng.normal(0, 8)
    else:
        hue = rng.uniform(0, 360)
    return _rgb(hue, rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0))


def _rgb(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    """HSV (degrees, [0, 1], [0, 1]) to RGB in [0, 1], float32 (3,)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    rgb = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return np.asarray(rgb, dtype=np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> NDArray[np.float32]:
    """Smooth noise of about ``cells`` bumps a side, float32 (H, W) in about [-1, 1]."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _stripes(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Parallel light and dark bands, float32 (H, W)."""
    angle, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(4, 12)
    x = np.arange(shape[1], dtype=np.float32) * np.float32(np.cos(angle) * frequency)
    y = np.arange(shape[0], dtype=np.float32) * np.float32(np.sin(angle) * frequency)
    return np.asarray(np.float32(rng.uniform(0.05, 0.2)) * np.sin(x + y[:, None]))


def _background(rng: np.random.Generator, layout: Layout) -> NDArray[np.float32]:
    """Textured ground with clutter, float32 (H, W, 3) in about [0, 1]."""
    size = layout.size
    first = _rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.55), rng.uniform(0.2, 0.95))
    second = _rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.55), rng.uniform(0.2, 0.95))
    mix = 0.5 + 0.5 * _noise(rng, (size, size), int(rng.integers(1, 6)))
    fine = _noise(rng, (size, size), int(rng.integers(8, 32))) * rng.uniform(0, 0.12)
    if rng.random() < 0.3:
        fine = fine + _stripes(rng, (size, size))
    ground = first + mix[..., None] * (second - first) + fine[..., None]
    page = Image.fromarray((ground * 255).clip(0, 255).astype(np.uint8))
    _clutter(rng, page, layout)
    return np.asarray(page, dtype=np.float32) / 255.0


def _clutter(rng: np.random.Generator, page: Image.Image, layout: Layout) -> None:
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(0, layout.clutter + 1))):
        colour = _rgb(rng.uniform(0, 360), rng.uniform(0.1, 0.8), rng.uniform(0.3, 1.0))
        fill = tuple(int(v * 255) for v in colour)
        x, y = (int(v) for v in rng.uniform(0, layout.size, 2))
        w, h = (int(v) for v in rng.uniform(4, 0.25 * IMAGE_SIZE, 2))
        kind = rng.integers(4)
        if kind == 0:
            draw.rectangle((x, y, x + w, y + h), fill=fill)
        elif kind == 1:
            draw.line((x, y, x + 2 * w - h, y + h), fill=fill, width=int(rng.integers(1, 4)))
        elif kind == 2:
            draw.ellipse((x, y, x + w // 2, y + h), outline=fill, width=2)
        else:
            letter = glyph(str(rng.choice(list(CLUTTER_GLYPHS)))).ink
            turned = letter.rotate(rng.uniform(0, 360), expand=True).resize((w + 6, w + 6))
            page.paste(fill, (x - w // 2, y - w // 2), turned)


def _camera(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Uneven light and sensor noise; uint8 (H, W, 3)."""
    size = canvas.shape[0]
    light = 1.0 + rng.uniform(0, 0.2) * _noise(rng, (size, size), 1)
    grain = rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
    picture = canvas * light[..., None] + grain
    return np.asarray((picture * 255).clip(0, 255), dtype=np.uint8)
