"""Decoders of TIFF tiles that are stored otherwise than as JPEG: without compression, Deflate, LZW."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from fossilray.core.types import Image
from fossilray.slides.tiff.directories import TiffDirectory

Decode: TypeAlias = Callable[[bytes, Image, bool], Image]
"""As `StoredTiles.decode`."""

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR = 258, 259, 262, 277, 284, 317
_FILL_ORDER = 266
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE = 1, 5, 7, 8, 32_946
_GREY, _RGB = 1, 2
_HORIZONTAL = 2


def tile_decoder(directory: TiffDirectory) -> Decode | None:
    """Return the decoder of the tiles of a directory; None if they are JPEGs.

    Raises:
        ValueError, KeyError, struct.error: its pixels are not grey or RGB of 8 bits, or their compression is unknown.
    """
    compression = _number(directory, _COMPRESSION, _NONE)
    if compression == _JPEG:
        return None
    samples = _number(directory, _SAMPLES, 1)
    if (
        (samples, _number(directory, _PHOTOMETRIC, -1)) not in ((1, _GREY), (3, _RGB))
        or np.any(directory.numbers(_BITS, most=3) != 8)
        or _number(directory, _PLANAR, 1) != 1
        or _number(directory, _FILL_ORDER, 1) != 1
    ):
        raise ValueError("its pixels are not grey or RGB of 8 bits")
    predictor = _number(directory, _PREDICTOR, 1)
    if compression not in (_NONE, _DEFLATE, _OLD_DEFLATE, _LZW) or predictor not in (1, _HORIZONTAL):
        raise ValueError(f"compression {compression} with predictor {predictor} is unknown")

    def decode(content: bytes, pixels: Image, _is_strict: bool) -> Image:
        height, width = pixels.shape[:2]
        if compression == _LZW:
            stored = _unpack_lzw(content, (height, width, samples))
        else:
            size = height * width * samples
            plain = content if compression == _NONE else _unpack_deflate(content, size)
            if len(plain) < size:
                raise ValueError(f"a tile has {len(plain)} bytes, expected {size}")
            stored = np.frombuffer(plain, np.uint8, size).reshape(height, width, samples)
        if predictor == _HORIZONTAL:
            stored = np.add.accumulate(stored, axis=1, dtype=np.uint8)
        pixels[:] = stored
        return pixels

    return decode


def _unpack_deflate(content: bytes, most_bytes: int) -> bytes:
    """Return the unpacked bytes, `most_bytes` at most.

    Raises:
        ValueError: they are damaged.
    """
    try:
        return zlib.decompressobj().decompress(content, most_bytes)
    except zlib.error as error:
        raise ValueError(str(error)) from None


def _unpack_lzw(content: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the bytes of a tile as an array, unpacked by libtiff behind Pillow: it becomes a TIFF of one strip."""
    height, width, samples = shape
    tags = (
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, _LZW),
        (262, 3, _GREY),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(content)),
    )
    # The samples of a pixel are columns of their own here, so that any number of them is one grey image.
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, width * samples if tag == 256 else value)
        for tag, kind, value in tags
    )
    file = struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content
    file += struct.pack("<H", len(tags)) + entries + bytes(4)
    try:
        with PillowImage.open(io.BytesIO(file), formats=["TIFF"]) as image:
            return np.asarray(image, np.uint8).reshape(shape)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(str(error)) from None


def _number(directory: TiffDirectory, tag: int, default: int) -> int:
    return int(directory.first(tag)) if tag in directory.tags else default
