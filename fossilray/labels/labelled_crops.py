"""Labelled crops as arrays, and the images that they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.images import decode_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}

_LARGEST_PX = 8192 * 8192
"""Pixels of one image; a crop has some 224 a side, and a file of a few bytes may claim any number."""


@dataclass(frozen=True)
class LabelledCrops:
    """Square crops with the class of each."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, stretched to the square."""
    shape: NDArray[np.float32]
    """(n, 2) width and height before stretching, the longer one 1."""
    label: NDArray[np.int64]
    """(n,) index into `classes`."""
    classes: tuple[str, ...]
    """`folder/class`, sorted."""

    def __len__(self) -> int:
        return len(self.label)


def read_image(image: Path | bytes, *, name: str) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) RGB of an image file, or of what it holds.

    Raises:
        UsageError: it cannot be decoded, or claims to be larger than any crop.
    """
    role = FileRole(name, "an image of one crop", "remove or replace it", UsageError)
    return decode_image(image, role, most_px=_LARGEST_PX)
