"""Interface between a slide and the library that decodes it: a handle that reads pixels of one level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray


class UndecodableRegion(Exception):
    """A region cannot be decoded; the handle may be unusable from then on."""


class PixelHandle(Protocol):
    """Open slide of one library, which any number of threads may read from at once."""

    def read(self, argb: NDArray[np.uint32], level: int, x: int, y: int) -> None:
        """Fill `argb` (height, width) with premultiplied pixels, 0 outside the canvas.

        x, y: level-0 px of the top left corner; the size of the array is in px of the level.

        Raises:
            UndecodableRegion: the region cannot be decoded.
        """

    def close(self) -> None:
        """Close the files. No thread reads from the handle then."""


OpenHandle: TypeAlias = Callable[[], PixelHandle]
"""Opens one more handle of the same slide; raises a SlideError."""
