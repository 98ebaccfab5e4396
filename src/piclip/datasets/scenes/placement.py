"""How an object of the built-in world lies in its scene: turned, sheared, mirrored and bent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from piclip.datasets.scenes.glyphs import MARGIN


@dataclass(frozen=True)
class Placement:
    """Where and how bent a glyph lies on the canvas: a 3 x 3 mesh of source quads.

    Attributes:
        box: Left, top, right and bottom in pixels of the canvas; may reach beyond it.
        mesh: Target box, relative to ``box``, and source quad of each cell, as Pillow takes them.
        canvas: Side of the canvas in pixels.
    """

    box: tuple[int, int, int, int]
    mesh: list[tuple[tuple[int, ...], tuple[float, ...]]]
    canvas: int

    @classmethod
    def draw(
        cls, rng: np.random.Generator, source: tuple[int, int], longest: float, canvas: int
    ) -> Placement:
        """Draws one at random for a glyph of size ``source`` (width, height), margin included.

        The longest side of the object has about ``longest`` pixels of the canvas.
        """
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
        for row, column in np.ndindex(3, 3):
            target = (xs[column] - x0, ys[row] - y0, xs[column + 1] - x0, ys[row + 1] - y0)
            corner, opposite = back[row : row + 2, column], back[row : row + 2, column + 1]
            quad = np.concatenate([*corner, *opposite[::-1]])
            mesh.append((tuple(map(int, target)), tuple(quad.tolist())))
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
