"""Maps and pictures at random, for what is drawn of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]
WHITE = [255, 255, 255]


def random_map(height: int, width: int, seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def random_picture(width: int, height: int, seed: int = 0) -> RGB:
    return np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), np.uint8)
