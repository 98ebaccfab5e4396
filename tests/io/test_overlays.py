"""Colours that can be told apart, and overlays against what they should look like."""

import numpy as np
import pytest
from PIL import Image

from piclip.io.overlays import COLOURS, draw_overlay, voc_palette

# Machado, Oliveira and Fernandes 2009: full protanopia and deuteranopia, in linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def cielab(linear_rgb):
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.clip(linear_rgb, 0, 1) @ np.transpose(to_xyz) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_for_every_vision(vision):
    assert len(COLOURS) >= 20
    rgb = np.array(COLOURS) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lab = cielab(linear @ np.transpose(VISIONS[vision]))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(len(lab))
    assert distance.min() > 13
    assert distance[:7, :7].min() > 17


def test_voc_palette_is_pascals():
    triples = np.array(voc_palette()).reshape(256, 3).tolist()
    known = {
        0: [0, 0, 0],
        1: [128, 0, 0],
        2: [0, 128, 0],
        3: [128, 128, 0],
        8: [64, 0, 0],
        15: [192, 128, 128],
        20: [0, 64, 128],
        255: [224, 224, 192],
    }
    assert {index: triples[index] for index in known} == known


def test_overlay_tints_outlines_and_leaves_the_rest():
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    classes = np.zeros((40, 60), np.uint8)
    classes[10:30, 5:25], classes[10:30, 35:55], classes[0:5, 0:5] = 1, 2, 255
    pixels = np.asarray(draw_overlay(image, classes, alpha=0.25)).astype(int)
    for x, colour in ((15, COLOURS[0]), (45, COLOURS[1])):
        expected = 0.75 * 100 + 0.25 * np.array(colour)
        np.testing.assert_allclose(pixels[20, x], expected, atol=0.51)
    assert pixels[10, 15].tolist() == list(COLOURS[0])
    assert pixels[9, 15].tolist() == [255, 255, 255]
    assert pixels[8, 15].tolist() == [100, 100, 100]
    assert pixels[2, 2].tolist() == [100, 100, 100]
    assert image.getpixel((15, 20)) == (100, 100, 100)


def test_overlay_of_an_object_that_fills_the_image_has_no_outline():
    image = Image.new("L", (9, 7), 0)
    pixels = np.asarray(draw_overlay(image, np.ones((7, 9), np.uint8), alpha=1.0))
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [list(COLOURS[0])]


def test_outlines_grow_with_the_image():
    classes = np.zeros((1000, 1000), np.uint8)
    classes[300:700, 300:700] = 1
    pixels = np.asarray(draw_overlay(Image.new("RGB", (1000, 1000)), classes, alpha=0.0))
    assert (pixels[500, :300] == 255).all(axis=1).sum() == 5


def test_colours_start_over_after_the_last():
    image = Image.new("RGB", (9, 7))
    first, again = (
        draw_overlay(image, np.full((7, 9), k, np.uint8)) for k in (1, 1 + len(COLOURS))
    )
    assert first.tobytes() == again.tobytes()
