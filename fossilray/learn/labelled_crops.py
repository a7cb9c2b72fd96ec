"""Labelled crops as arrays, and the images that they are read from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from fossilray.errors import UsageError

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
    try:
        with Pillow.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
            width, height = file.size
            if width * height > _LARGEST_PX:
                raise UsageError(
                    f"{name} claims {width} x {height} px, more than the {_LARGEST_PX / 1e6:.0f} megapixels a "
                    "crop may have; remove it, or cut it smaller"
                )
            return np.asarray(file.convert("RGB"))
    # Pillow's own limit is an error of another family; a broken PNG is a SyntaxError.
    except (OSError, UnidentifiedImageError, Pillow.DecompressionBombError, SyntaxError, ValueError) as error:
        # Pillow would name the buffer, by an address that is another each time.
        why = "no image format" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(f"{name} cannot be decoded ({why}); remove or replace it") from None
