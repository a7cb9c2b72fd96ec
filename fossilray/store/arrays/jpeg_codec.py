"""Crops as JPEG files: the codec `fossilray.jpeg` of the package `fossilray_jpeg`, with the errors of a store."""

from __future__ import annotations

from fossilray.core.errors import StoreError
from fossilray.core.types import Image
from fossilray_jpeg import CODEC_NAME, DamagedJpeg, JpegCodec, decode_jpeg, encode_jpeg

__all__ = ["CODEC_NAME", "JpegCodec", "decode_crop", "decode_crop_above", "encode_crop"]


def encode_crop(crop: Image, *, quality: int) -> bytes:
    """One crop (H, W, 3) as a JPEG file; equal pixels and quality give equal bytes."""
    return encode_jpeg(crop, quality=quality)


def decode_crop(encoded: bytes | memoryview, *, height: int, width: int) -> Image:
    """The pixels (height, width, 3) of a stored crop.

    Raises:
        StoreError: the bytes are not a whole JPEG of that size.
    """
    return decode_crop_above(encoded, height=height, width=width, least_px=max(height, width))


def decode_crop_above(encoded: bytes | memoryview, *, height: int, width: int, least_px: int) -> Image:
    """A stored crop at its own size, or at a half of it or less while no side is shorter than least_px.

    A decoder that skips the finest frequencies is quicker, and what it leaves out would alias in a resize.

    Raises:
        StoreError: the bytes are not a whole JPEG of that size.
    """
    try:
        return decode_jpeg(encoded, height=height, width=width, least_px=least_px)
    except DamagedJpeg as error:
        raise StoreError(
            f"{error}: compare it with the sha256 in the footer of the slide's objects file"
        ) from None
