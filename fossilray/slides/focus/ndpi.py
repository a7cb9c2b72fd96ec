"""Tiles of an NDPI: each image is one JPEG, whose restart intervals are decoded one by one.

Source: https://openslide.org/formats/hamamatsu/. The tag McuStarts has the position of each interval. An interval and
the JPEG's header with the interval's size are a complete JPEG.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import numpy as np
import simplejpeg

from fossilray.core.types import Image, Level
from fossilray.slides.tiff.directories import TiffDirectory
from fossilray.slides.tile_layout import LevelLayout, StoredTiles, TilePieces

_OFFSETS, _LENGTHS, _STARTS, _STARTS_HIGH = 273, 279, 65_426, 65_432
_COMPRESSION, _JPEG = 259, 7
_FRAMES, _RESTARTS, _SCAN = (0xC0, 0xC1), 0xDD, 0xDA
_MOST_TILES = 8_000_000
_LARGEST_HEADER_BYTES = 1 << 16
# Without intervals an image is decoded at once.
_LARGEST_WHOLE_PX = 4096 * 4096
_END = b"\xff\xd9"


def arrange_ndpi_level(number: int, level: Level, directory: TiffDirectory, file: BinaryIO) -> LevelLayout:
    """Return the layout of one image of an NDPI.

    Raises:
        ValueError, KeyError, struct.error: it is stored in an unknown way.
    """
    (offset,), (length,) = (directory.numbers(tag, most=1).tolist() for tag in (_OFFSETS, _LENGTHS))
    if int(directory.first(_COMPRESSION)) != _JPEG:
        raise ValueError(f"level {number} is no JPEG")
    if _STARTS not in directory.tags:
        return _whole(number, level, offset, length)
    starts = directory.numbers(_STARTS, most=_MOST_TILES)
    if _STARTS_HIGH in directory.tags:
        starts = starts + (directory.numbers(_STARTS_HIGH, most=_MOST_TILES) << 32)
    head = os.pread(file.fileno(), min(int(starts[0]), _LARGEST_HEADER_BYTES), offset)
    if len(head) != starts[0]:
        raise ValueError("a JPEG's header is cut short")
    head, width, height = _interval_header(head, level)
    across, down = level.width // width, -(-level.height // height)
    if len(starts) != across * down or np.any(np.diff(starts, append=length) <= 0):
        raise ValueError(f"level {number} has other intervals than its size wants")

    def decode(content: bytes, pixels: Image, is_strict: bool) -> Image:
        # The last two bytes are the next restart marker, or the end of the image.
        decoded: Image = simplejpeg.decode_jpeg(
            head + content[:-2] + _END, "RGB", buffer=pixels, strict=is_strict
        )
        return decoded

    tiles = StoredTiles(
        np.zeros_like(starts),
        starts + offset,
        np.diff(starts, append=length),
        width,
        height,
        decode=decode,
    )
    return LevelLayout(
        number,
        level.downsample,
        tiles,
        TilePieces.of_whole_tiles(np.arange(len(starts)), across=across, width=width, height=height),
        canvas_px=(level.width, level.height),
    )


def _whole(number: int, level: Level, offset: int, length: int) -> LevelLayout:
    """Return the layout of an image without intervals: one tile."""
    if level.width * level.height > _LARGEST_WHOLE_PX:
        raise ValueError(f"level {number} is one JPEG of {level.width} x {level.height} px")
    zero = np.zeros(1, np.int64)
    corner = np.zeros(1, np.float64)
    return LevelLayout(
        number,
        level.downsample,
        StoredTiles(zero, zero + offset, zero + length, level.width, level.height),
        TilePieces(
            width=level.width,
            height=level.height,
            tile=zero,
            source_x=zero,
            source_y=zero,
            left=corner,
            top=corner,
            column=zero,
            row=zero,
            advance_x=level.width,
            advance_y=level.height,
        ),
        canvas_px=(level.width, level.height),
    )


def _interval_header(head: bytes, level: Level) -> tuple[bytes, int, int]:
    """Return the header of a JPEG of one restart interval, and the interval's width and height in px.

    The whole image may be larger than a JPEG can state.
    """
    at, frame, interval, mcu = 2, 0, 0, (0, 0)
    while at + 4 <= len(head):
        marker, size = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at] != 0xFF:
            raise ValueError("a JPEG has something between its markers")
        if marker in _FRAMES:
            frame = at
            factors = [head[at + 11 + 3 * component] for component in range(head[at + 9])]
            mcu = 8 * max(factor >> 4 for factor in factors), 8 * max(factor & 15 for factor in factors)
        elif marker == _RESTARTS:
            (interval,) = struct.unpack_from(">H", head, at + 4)
        elif marker == _SCAN:
            break
        at += 2 + size
    if not (frame and interval and all(mcu)):
        raise ValueError("a JPEG has no restart intervals")
    width, height = mcu[0] * interval, mcu[1]
    if level.width % width:
        raise ValueError(f"intervals of {width} px do not divide {level.width} px")
    sized = bytearray(head)
    struct.pack_into(">HH", sized, frame + 5, height, width)
    return bytes(sized), width, height
