"""A picture for the tests of reading and writing."""

import numpy as np


def gradient(height=24, width=36):
    """An RGB picture without any symmetry, smooth enough to survive lossy formats."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [x / width, y / height, (x + 2 * y) / (width + 2 * height)]
    return np.round(np.stack(channels, axis=2) * 255).astype(np.uint8)
