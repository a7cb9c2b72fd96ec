"""Pixels for tests of the writers of slides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.writers.pixels import ArrayPixels


def waves(width: int, height: int, *, across: float = 23, down: float = 29) -> NDArray[np.uint8]:
    """A picture that JPEG keeps well and in which no two places of 100 px look alike; `across` and `down` in px."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red = 128 + 90 * np.sin(x / across + y / 190)
    green = 128 + 90 * np.sin(y / down - x / 230)
    blue = 128 + 60 * np.sin((x + y) / 61)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


class BrokenPixels(ArrayPixels):
    """Pixels that cannot be read."""

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        raise RuntimeError("no light")
