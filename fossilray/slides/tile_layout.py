"""Layout of a slide's levels: stored JPEG tiles, and the pieces of them with their positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Image

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

# Larger tiles would fill the cache with a few; scanners write 256 to 2048 px a side.
LARGEST_DIRECT_TILE_PX = 2048 * 2048


@dataclass(frozen=True, eq=False)
class StoredTiles:
    """JPEG tiles of one level and their byte ranges in the data files; arrays run over tiles.

    file: number of the data file. offset, length: bytes. width, height: px of every tile. as_jpeg: converts a tile's
    bytes to a complete JPEG, ValueError if their kind is unknown; None if the stored bytes are complete JPEGs. decode:
    for tiles that are not complete JPEGs and cannot be made so: decodes a tile's bytes into an array (height, width, 3)
    and returns it, ValueError if they are damaged; True: also for damage that libjpeg only warns of.
    """

    file: Ints
    offset: Ints
    length: Ints
    width: int
    height: int
    as_jpeg: Callable[[bytes], bytes] | None = None
    decode: Callable[[bytes, Image, bool], Image] | None = None


@dataclass(frozen=True, eq=False)
class TilePieces:
    """Parts of stored tiles, all of one size; arrays run over pieces.

    width, height: px. tile: number of the stored tile. source_x, source_y: top left corner in the tile, px.
    left, top: top left corner on the level, px of the level, possibly fractional. column, row: cell of the grid.
    advance_x, advance_y: nominal distance of cells, px of the level.
    """

    width: int
    height: int
    tile: Ints
    source_x: Ints
    source_y: Ints
    left: Floats
    top: Floats
    column: Ints
    row: Ints
    advance_x: float
    advance_y: float

    @classmethod
    def of_whole_tiles(cls, cells: Ints, *, across: int, width: int, height: int) -> TilePieces:
        """Return the pieces of tiles that are shown whole, edge to edge.

        cells: of each stored tile, counted row by row. across: cells in a row. width, height: of a tile, px.
        """
        row, column = np.divmod(cells, across)
        return cls(
            width=width,
            height=height,
            tile=np.arange(len(cells)),
            source_x=np.zeros_like(cells),
            source_y=np.zeros_like(cells),
            left=(column * width).astype(np.float64),
            top=(row * height).astype(np.float64),
            column=column,
            row=row,
            advance_x=width,
            advance_y=height,
        )


class LevelLayout:
    """One level: its stored tiles, its pieces, and a lookup of the pieces that touch a window.

    number: of the level. downsample: level-0 px per px of the level. is_whole: every piece is at whole px.
    canvas_px: width and height at which OpenSlide crops tiles, and then treats them as having alpha; None: it
    does not crop.

    Raises:
        ValueError: there are no pieces, or their cells have no size.
    """

    def __init__(
        self,
        number: int,
        downsample: float,
        tiles: StoredTiles,
        pieces: TilePieces,
        *,
        canvas_px: tuple[int, int] | None = None,
    ) -> None:
        if not (len(pieces.tile) and pieces.advance_x >= 1 and pieces.advance_y >= 1):
            raise ValueError(f"level {number} has no grid of tiles")
        self.number = number
        self.downsample = downsample
        self.tiles = tiles
        self.pieces = pieces
        self.canvas_px = canvas_px
        self.is_whole = not (np.any(pieces.left % 1) or np.any(pieces.top % 1))
        self._columns = _Axis.of(pieces.column, pieces.left, pieces.width, pieces.advance_x)
        self._rows = _Axis.of(pieces.row, pieces.top, pieces.height, pieces.advance_y)
        self._cells = np.full((self._rows.count, self._columns.count), -1, np.int32)
        cell = pieces.row - self._rows.first, pieces.column - self._columns.first
        self._cells[cell] = np.arange(len(pieces.tile))

    def with_tiles(self, number: int, tiles: StoredTiles) -> LevelLayout:
        """Return a level of the same pieces with another number and other stored tiles; it shares their memory."""
        other = copy(self)
        other.number = number
        other.tiles = tiles
        return other

    def touching(self, x: float, y: float, width: int, height: int) -> Ints:
        """Return the numbers of the pieces that touch a window, topmost first; all arguments in px of the level."""
        cells = self._cells[self._rows.near(y, height), self._columns.near(x, width)]
        numbers = cells[::-1, ::-1].ravel()
        numbers = numbers[numbers >= 0]
        left, top = self.pieces.left[numbers], self.pieces.top[numbers]
        inside = (left + self.pieces.width > x) & (left < x + width)
        inside &= (top + self.pieces.height > y) & (top < y + height)
        return numbers[inside].astype(np.int64)

    def shown_px(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Return the visible widths and heights of these pieces in px, cropped at the canvas."""
        pieces = self.pieces
        widths, heights = np.full(len(numbers), pieces.width), np.full(len(numbers), pieces.height)
        if self.canvas_px is not None:
            across, down = self.canvas_px
            widths = np.minimum(widths, across - pieces.left[numbers].astype(np.int64))
            heights = np.minimum(heights, down - pieces.top[numbers].astype(np.int64))
        return widths, heights


@dataclass(frozen=True)
class SlideLayout:
    """Data files and levels of a slide; None for a level without JPEG tiles at known positions."""

    files: tuple[Path, ...]
    levels: tuple[LevelLayout | None, ...]


@dataclass(frozen=True)
class _Axis:
    """Cells along one axis; pieces are displaced by `least` to `most` px from their cell's nominal position."""

    first: int
    count: int
    size: int
    advance: float
    least: float
    most: float

    @classmethod
    def of(cls, cells: Ints, positions: Floats, size: int, advance: float) -> Self:
        displacement = positions - cells * advance
        first = int(cells.min())
        return cls(
            first,
            int(cells.max()) - first + 1,
            size,
            advance,
            float(displacement.min()),
            float(displacement.max()),
        )

    def near(self, start: float, extent: int) -> slice:
        """Return the cells, counted from the first, whose pieces may touch [start, start + extent) px."""
        begin = math.floor((start - self.size - self.most) / self.advance) - self.first
        end = math.ceil((start + extent - self.least) / self.advance) - self.first
        return slice(max(0, begin), max(0, end + 1))
