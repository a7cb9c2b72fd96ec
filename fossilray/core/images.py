"""Images: resized to a square, read from a file, the grey of a crop that was lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.images import decode_image
from fossilray.core.types import Image

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass


FAILED_GREY = 128
"""Value of every pixel of a crop that no level could give: neither background nor object."""


Span = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max, not rounded."""


def content_box(width: float, height: float, *, size_px: int, fit: str) -> tuple[int, int, int, int]:
    """Where in the crop's square a box of this shape lands: x_min, y_min, x_max, y_max in crop pixels."""
    if fit == "stretch":
        return 0, 0, size_px, size_px
    scale = size_px / max(width, height)
    across, down = (max(1, round(side * scale)) for side in (width, height))
    left, top = (size_px - across) // 2, (size_px - down) // 2
    return left, top, left + across, top + down


def resize_to(
    image: Image,
    *,
    size_px: int,
    fit: str = "stretch",
    pad_rgb: Sequence[float] | NDArray[np.float32] = (255, 255, 255),
) -> Image:
    """A whole image as a crop: (size_px, size_px, 3), stretched or letterboxed as crops of a slide are."""
    height, width = image.shape[:2]
    content = content_box(width, height, size_px=size_px, fit=fit)
    return resize_image(
        image, (0.0, 0.0, float(width), float(height)), size_px=size_px, content=content, pad_rgb=pad_rgb
    )


def resize_image(
    window: Image,
    inside: Span,
    *,
    size_px: int,
    content: tuple[int, int, int, int],
    pad_rgb: Sequence[float] | NDArray[np.float32],
) -> Image:
    """Resample a rectangle of the window into the content rectangle of the square."""
    left, top, right, bottom = content
    resized = _resample(window, inside, right - left, bottom - top)
    if content == (0, 0, size_px, size_px):
        return resized
    square = np.empty((size_px, size_px, 3), np.uint8)
    square[:] = np.clip(np.rint(np.asarray(pad_rgb, np.float64)), 0, 255).astype(np.uint8)
    square[top:bottom, left:right] = resized
    return square


def _resample(window: Image, inside: Span, width: int, height: int) -> Image:
    """A rectangle of the window, of another size.

    The bicubic kernel widens along each axis that shrinks and interpolates along one that grows, so a long
    thin box is anti-aliased in one direction and smooth in the other. Torch's 8-bit kernel takes a fifth of
    Pillow's time and is as near to the exact one, but knows no fractions of a pixel.
    """
    whole: Span = 0.0, 0.0, float(window.shape[1]), float(window.shape[0])
    if inside != whole:
        part = Pillow.fromarray(window).resize((width, height), Pillow.Resampling.BICUBIC, box=inside)
        return np.asarray(part)
    import torch

    # Torch warns of memory that must not be written to. Channels are last, the batch's stride included, or it is slow.
    pixels = torch.from_numpy(np.require(window, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
"""Files that are read as images of crops; compare in lower case."""


_LARGEST_PX = 8192 * 8192
"""Pixels of one image; a crop has some 224 a side, and a file of a few bytes may claim any number."""


def read_image(image: Path | bytes, *, name: str) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) RGB of an image file, or of what it holds.

    Raises:
        UsageError: it cannot be decoded, or claims to be larger than any crop.
    """
    role = FileRole(name, "an image of one crop", "remove or replace it", UsageError)
    return decode_image(image, role, most_px=_LARGEST_PX)


def restore_aspect_ratio(crop: Image, width_um: float, height_um: float) -> Image:
    """A stretched crop in the proportions of its object, its longer side as long as before.

    The shorter side has 8 px at least.
    """
    longest = max(width_um, height_um, 1e-6)
    side = max(crop.shape[:2])
    size = (max(round(side * width_um / longest), 8), max(round(side * height_um / longest), 8))
    return np.asarray(Pillow.fromarray(crop).resize(size, Pillow.Resampling.LANCZOS))
