"""Writer of pyramidal tiled TIFF slides from any source of pixels.

Tiles of all levels are written as they are produced; the directories with their offsets follow at the end. (tifffile
needs one level after the other, and its own JPEG encoder.) The tags are those of TIFF 6.0 and of its Technical Note 2
on JPEG; BigTIFF differs in the width of its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fossilray.core.atomic_files import atomic_file
from fossilray.core.errors import ConfigError
from fossilray.synthetic.writers.pixels import PixelSource, scanned
from fossilray.synthetic.writers.pyramid import PyramidBuilder, levels_down_to

_COARSEST_PX = 512
# The source is read in squares of this many tiles a side.
_BLOCK_TILES = 4
# A pyramid of JPEG tiles stays below 2 bytes per level-0 px, and plain TIFF ends at 4 GiB.
_LARGEST_PLAIN_TIFF_PX = 2_000_000_000
# By kind of value: code in TIFF, letter in struct, number of struct items per value.
_TYPES = {"H": (3, "H", 1), "I": (4, "I", 1), "R": (5, "I", 2), "Q": (16, "Q", 1)}


@dataclass(frozen=True, kw_only=True)
class TiffOptions:
    """Options of a TIFF slide.

    levels: number of levels; None for as many as reduce the longer side to 512 px.

    Raises:
        ConfigError: an option is out of range.
    """

    mpp: float = 0.25
    levels: int | None = None
    tile_px: int = 256
    jpeg_quality: int = 80
    background_rgb: tuple[int, int, int] = (226, 222, 219)

    def __post_init__(self) -> None:
        if self.tile_px <= 0 or self.tile_px % 16:
            raise ConfigError(f"tile_px is {self.tile_px}; TIFF wants a multiple of 16")
        if self.mpp <= 0:
            raise ConfigError(f"mpp is {self.mpp}; it must be above 0")
        if self.levels is not None and not 1 <= self.levels <= 16:
            raise ConfigError(f"levels is {self.levels}; expected 1 to 16, or None")


def write_pyramidal_tiff(path: Path, source: PixelSource, options: TiffOptions) -> None:
    """Write a TIFF that OpenSlide opens with all its levels and mpp, in the frame of the source.

    Blocks of 4 x 4 tiles where nothing was scanned take no space and are transparent. Each level has half the size of
    the previous one, rounded up. Sources above 2 gigapixels are written as BigTIFF. Each block is read from the source
    once, row by row. The file is renamed to `path` when it is complete; equal input gives equal bytes.
    """
    levels = options.levels or levels_down_to(source.width, source.height, coarsest_px=_COARSEST_PX)
    side = options.tile_px
    columns, rows = -(-source.width // side), -(-source.height // side)
    with atomic_file(path, durable=False) as file:
        tiff = _TiffFile(file, is_big=source.width * source.height > _LARGEST_PLAIN_TIFF_PX)
        tiles: list[dict[tuple[int, int], tuple[int, int]]] = [{} for _ in range(levels)]

        def store(level: int, column: int, row: int, pixels: NDArray[np.uint8]) -> None:
            contiguous = np.ascontiguousarray(pixels)
            quality = options.jpeg_quality
            encoded: bytes = simplejpeg.encode_jpeg(contiguous, quality, "RGB", "420", False)
            tiles[level][row, column] = (tiff.append(encoded), len(encoded))

        pyramid = PyramidBuilder(
            columns=columns,
            rows=rows,
            levels=levels,
            tile_px=side,
            fill=options.background_rgb,
            sink=store,
        )
        for column, row, tile in _tiles(source, columns, rows, side):
            pyramid.add(column, row, tile)
        for level in range(levels):
            width, height = -(-source.width >> level), -(-source.height >> level)
            positions = np.zeros((*pyramid.grid(level)[::-1], 2), dtype=np.uint64)
            for position, stored in tiles[level].items():
                positions[position] = stored
            tiff.append_directory(width, height, level, positions, options)


def _tiles(
    source: PixelSource, columns: int, rows: int, side: int
) -> Iterator[tuple[int, int, NDArray[np.uint8] | None]]:
    """Yield column, row and pixels of every tile of level 0, block by block."""
    block_px = _BLOCK_TILES * side
    for row in range(0, rows, _BLOCK_TILES):
        for column in range(0, columns, _BLOCK_TILES):
            block = _read_block(source, column * side, row * side, block_px)
            down, across = min(_BLOCK_TILES, rows - row), min(_BLOCK_TILES, columns - column)
            for y, x in np.ndindex(down, across):
                tile: NDArray[np.uint8] | None = None
                if block is not None:
                    tile = block[y * side : (y + 1) * side, x * side : (x + 1) * side]
                yield column + x, row + y, tile


def _read_block(source: PixelSource, x: int, y: int, side: int) -> NDArray[np.uint8] | None:
    """Read a square of the source, padded by repeating its edge; None if nothing was scanned.

    The repeated edge prevents other colours in the last pixels when a level is halved.
    """
    if not scanned(source, x, y, side, side):
        return None
    width, height = min(side, source.width - x), min(side, source.height - y)
    pixels = source.region(x, y, width, height)
    return np.pad(pixels, ((0, side - height), (0, side - width), (0, 0)), mode="edge")


class _TiffFile:
    """Writer of a little-endian TIFF: data first, then the chain of directories."""

    def __init__(self, file: IO[bytes], *, is_big: bool) -> None:
        self._file = file
        self._is_big = is_big
        self._pointer = "<Q" if is_big else "<I"
        file.write(struct.pack("<2sHHH", b"II", 43, 8, 0) if is_big else struct.pack("<2sH", b"II", 42))
        # The position of the pointer to the next directory; 0 there ends the chain.
        self._next_pointer = file.tell()
        file.write(struct.pack(self._pointer, 0))

    def append(self, data: bytes) -> int:
        """Write `data` at an even offset and return that offset."""
        if self._file.tell() % 2:
            self._file.write(b"\0")
        offset = self._file.tell()
        self._file.write(data)
        return offset

    def append_directory(
        self, width: int, height: int, level: int, positions: NDArray[np.uint64], options: TiffOptions
    ) -> None:
        """Write the directory of one level; positions: rows x columns x 2, offset and length of tiles."""
        wide = "Q" if self._is_big else "I"
        # A rational in 1/1000 px per cm.
        resolution = round(10_000_000 / options.mpp / 2**level), 1000
        is_reduced = 1 if level else 0
        tags: list[tuple[int, str, Sequence[int]]] = [
            (254, "I", [is_reduced]),  # NewSubfileType
            (256, "I", [width]),
            (257, "I", [height]),
            (258, "H", [8, 8, 8]),  # BitsPerSample
            (259, "H", [7]),  # Compression: JPEG
            (262, "H", [6]),  # PhotometricInterpretation: YCbCr
            (277, "H", [3]),  # SamplesPerPixel
            (282, "R", resolution),  # XResolution
            (283, "R", resolution),  # YResolution
            (284, "H", [1]),  # PlanarConfiguration: chunky
            (296, "H", [3]),  # ResolutionUnit: cm
            (322, "I", [options.tile_px]),  # TileWidth
            (323, "I", [options.tile_px]),  # TileLength
            (324, wide, positions[..., 0].ravel().tolist()),  # TileOffsets
            (325, wide, positions[..., 1].ravel().tolist()),  # TileByteCounts
            (530, "H", [2, 2]),  # YCbCrSubSampling
        ]
        entries = b"".join(self._entry(*tag) for tag in tags)
        count = struct.pack("<Q" if self._is_big else "<H", len(tags))
        offset = self.append(count + entries + struct.pack(self._pointer, 0))
        end = self._file.tell()
        self._file.seek(self._next_pointer)
        self._file.write(struct.pack(self._pointer, offset))
        self._file.seek(end)
        self._next_pointer = end - struct.calcsize(self._pointer)

    def _entry(self, tag: int, kind: str, values: Sequence[int]) -> bytes:
        """Return one directory entry; values that do not fit into it are written first."""
        code, letter, words = _TYPES[kind]
        data = struct.pack(f"<{len(values)}{letter}", *values)
        inline_bytes = struct.calcsize(self._pointer)
        if len(data) > inline_bytes:
            data = struct.pack(self._pointer, self.append(data))
        count = struct.pack(self._pointer, len(values) // words)
        return struct.pack("<HH", tag, code) + count + data.ljust(inline_bytes, b"\0")
