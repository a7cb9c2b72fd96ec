"""Sources of the pixels of a synthetic slide: any region, on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PixelSource(Protocol):
    """Image too large for memory that renders any requested region.

    Its frame is its own: level-0 px, x before y, origin top left. Regions are inside the image, and a pixel must not
    depend on the region in which it is rendered.
    """

    @property
    def width(self) -> int:
        """Width in level-0 px."""

    @property
    def height(self) -> int:
        """Height in level-0 px."""

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the pixels of one region, H x W x 3 RGB."""

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        """Return whether any part of a region was scanned; if not, no tile is stored for it."""


@dataclass(frozen=True, kw_only=True)
class ArrayPixels:
    """Source whose image is an array in memory, completely scanned.

    image: H x W x 3 RGB.
    """

    image: NDArray[np.uint8]

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        return self.image[y : y + height, x : x + width]

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return True


def padded_region(
    source: PixelSource, x: int, y: int, width: int, height: int, *, fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return the pixels of a region, H x W x 3 RGB; parts beyond the source have the colour `fill`."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, source.width), min(y + height, source.height)
    if (left, top, right, bottom) == (x, y, x + width, y + height):
        return source.region(x, y, width, height)
    padded = np.full((height, width, 3), fill, dtype=np.uint8)
    if left < right and top < bottom:
        inside = source.region(left, top, right - left, bottom - top)
        padded[top - y : bottom - y, left - x : right - x] = inside
    return padded


def scanned(source: PixelSource, x: int, y: int, width: int, height: int) -> bool:
    """Return whether any part of a region, which may extend beyond the source, was scanned."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, source.width), min(y + height, source.height)
    if left >= right or top >= bottom:
        return False
    return source.is_scanned(left, top, right - left, bottom - top)
