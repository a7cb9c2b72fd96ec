"""Positions of the JPEG tiles of a tiled TIFF, in the file and on the levels, as OpenSlide 4.0 computes them.

Formats: TIFF 6.0 with its Technical Note 2 on JPEG, https://openslide.org/formats/generic-tiff/ and
https://openslide.org/formats/aperio/, and OpenSlide's readers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fossilray.core.types import Image, Level
from fossilray.slides.tiff.directories import TiffDirectory, directories_in
from fossilray.slides.tiff.jpeg_tables import JpegTables
from fossilray.slides.tile_layout import (
    LARGEST_DIRECT_TILE_PX,
    LevelLayout,
    SlideLayout,
    StoredTiles,
    TilePieces,
)

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _LENGTHS = 277, 284, 322, 323, 324, 325
_JPEG_TABLES = 347
_JPEG, _CHUNKY, _RGB, _YCBCR = 7, 1, 2, 6

_LEAST_TILE_PX = 16
# A slide of 200 gigapixels in tiles of 256 px has 3 million.
_MOST_TILES = 4_000_000
_MOST_TABLE_BYTES = 1 << 16


def read_tiff_layout(path: Path, levels: Sequence[Level]) -> SlideLayout:
    """Read the layout of the TIFF at `path` for the levels that OpenSlide reports.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TIFF, or damaged.
    """
    with path.open("rb") as file:
        try:
            directories = list(directories_in(file))
            levels_found = [_of_level(number, levels, directories) for number in range(len(levels))]
        except (KeyError, struct.error, OverflowError) as error:
            raise ValueError(f"it is no TIFF that is known: {error}") from None
    return SlideLayout((path,), tuple(levels_found))


def _of_level(number: int, levels: Sequence[Level], directories: list[TiffDirectory]) -> LevelLayout | None:
    """Return the layout of a level; None unless exactly one tiled directory has its size and is supported."""
    level = levels[number]
    size = level.width, level.height
    fitting = [
        directory
        for directory in directories
        if _TILE_WIDTH in directory.tags and (directory.first(_WIDTH), directory.first(_HEIGHT)) == size
    ]
    if len(fitting) != 1:
        return None
    try:
        return arrange_level(number, level, fitting[0])
    except (ValueError, KeyError, struct.error):
        return None


def arrange_level(
    number: int,
    level: Level,
    directory: TiffDirectory,
    *,
    decode: Callable[[bytes, Image, bool], Image] | None = None,
) -> LevelLayout:
    """Return the layout of a tiled directory. decode: as of `StoredTiles`; None: its tiles are JPEGs of three colours.

    Raises:
        ValueError, KeyError, struct.error: its tiles are not, or the directory is damaged.
    """
    width, height = int(directory.first(_TILE_WIDTH)), int(directory.first(_TILE_HEIGHT))
    if min(width, height) < _LEAST_TILE_PX or width * height > LARGEST_DIRECT_TILE_PX:
        raise ValueError(f"level {number} has tiles of an unusual size")
    as_jpeg = _jpeg_maker(number, directory) if decode is None else None
    across, down = -(-level.width // width), -(-level.height // height)
    offset, length = (directory.numbers(tag, most=_MOST_TILES) for tag in (_OFFSETS, _LENGTHS))
    if not len(offset) == len(length) == across * down or min(offset.min(), length.min()) < 0:
        raise ValueError(f"level {number} has other tiles than its size wants")
    stored = np.flatnonzero(length)
    return LevelLayout(
        number,
        level.downsample,
        StoredTiles(np.zeros_like(stored), offset[stored], length[stored], width, height, as_jpeg, decode),
        TilePieces.of_whole_tiles(stored, across=across, width=width, height=height),
        canvas_px=(level.width, level.height),
    )


def _jpeg_maker(number: int, directory: TiffDirectory) -> JpegTables:
    """Return the converter to complete JPEGs, under the conditions on which OpenSlide itself uses libjpeg.

    Raises:
        ValueError: the tiles are not chunky JPEGs of three 8-bit components.
    """
    photometric = directory.first(_PHOTOMETRIC)
    depths = directory.numbers(_BITS, most=3)
    if (
        directory.first(_COMPRESSION) != _JPEG
        or _first_or(directory, _PLANAR, _CHUNKY) != _CHUNKY
        or photometric not in (_RGB, _YCBCR)
        or directory.first(_SAMPLES) != 3
        or np.any(depths != 8)
        or _first_or(directory, _FILL_ORDER, 1) != 1
    ):
        raise ValueError(f"level {number} is not made of JPEG tiles of three colours")
    tables = b""
    if _JPEG_TABLES in directory.tags:
        tables = directory.numbers(_JPEG_TABLES, most=_MOST_TABLE_BYTES).astype(np.uint8).tobytes()
    return JpegTables(tables, is_rgb=photometric == _RGB)


def _first_or(directory: TiffDirectory, tag: int, default: int) -> int:
    return int(directory.first(tag)) if tag in directory.tags else default
