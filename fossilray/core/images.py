"""Images of crops: resizing to a square, reading from files, the grey of a lost crop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.errors import UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.images import decode_image
from fossilray.core.types import Image

FAILED_GREY = 128
"""Value of every pixel of a crop that could not be read from any level."""


Span = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max, unrounded."""


def content_box(width: float, height: float, *, size_px: int, fit: str) -> tuple[int, int, int, int]:
    """Rectangle of the crop's square that the box fills: x_min, y_min, x_max, y_max in crop pixels."""
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
    """Resize an image to (size_px, size_px, 3), stretched or letterboxed like the crops of a slide."""
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
    """Resample a rectangle of a window into the content rectangle of a square."""
    left, top, right, bottom = content
    resized = _resample(window, inside, right - left, bottom - top)
    if content == (0, 0, size_px, size_px):
        return resized
    square = np.empty((size_px, size_px, 3), np.uint8)
    square[:] = np.clip(np.rint(np.asarray(pad_rgb, np.float64)), 0, 255).astype(np.uint8)
    square[top:bottom, left:right] = resized
    return square


def _resample(window: Image, inside: Span, width: int, height: int) -> Image:
    """Resample a rectangle of a window to another size.

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
"""Bound on the pixels of an image; a crop has about 224 per side, and a small file may claim any number."""


def read_image(image: Path | bytes, *, name: str) -> NDArray[np.uint8]:
    """Read an image file, or its content, as (H, W, 3) uint8 RGB.

    Raises:
        UsageError: it cannot be decoded, or claims to be larger than any crop.
    """
    role = FileRole(name, "an image of one crop", "remove or replace it", UsageError)
    return decode_image(image, role, most_px=_LARGEST_PX)


def restore_aspect_ratio(crop: Image, width_um: float, height_um: float) -> Image:
    """Resize a stretched crop to the aspect ratio of its object; the longer side keeps its length.

    The shorter side has at least 8 px.
    """
    longest = max(width_um, height_um, 1e-6)
    side = max(crop.shape[:2])
    size = (max(round(side * width_um / longest), 8), max(round(side * height_um / longest), 8))
    return np.asarray(Pillow.fromarray(crop).resize(size, Pillow.Resampling.LANCZOS))
