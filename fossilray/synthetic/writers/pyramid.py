"""Builder of a tile pyramid from level-0 tiles in any order, without a whole level in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

TileSink = Callable[[int, int, int, NDArray[np.uint8]], None]
"""Takes level, column, row and the pixels of one finished tile."""


@dataclass
class _Parent:
    pixels: NDArray[np.uint8] | None
    missing: int


class PyramidBuilder:
    """Builder of a pyramid: each tile is halved, and four of them are joined as one tile of the next level.

    Every position of the level-0 grid must be added once, in any order, as `None` if it has no tile. A coarse tile
    is passed to `sink` as soon as all positions below it are known, and never if they are all empty. Quarters without
    a tile have the colour `fill`. Only incomplete tiles are in memory: for input in row order, about one row of tiles
    per level.
    """

    def __init__(
        self,
        *,
        columns: int,
        rows: int,
        levels: int,
        tile_px: int,
        fill: tuple[int, int, int],
        sink: TileSink,
    ) -> None:
        self._grid = [(columns, rows)]
        for _ in range(levels - 1):
            columns, rows = -(-columns // 2), -(-rows // 2)
            self._grid.append((columns, rows))
        self._tile_px = tile_px
        self._fill = fill
        self._sink = sink
        self._pending: dict[tuple[int, int, int], _Parent] = {}

    def grid(self, level: int) -> tuple[int, int]:
        """Return the columns and rows of tiles at a level."""
        return self._grid[level]

    def add(self, column: int, row: int, pixels: NDArray[np.uint8] | None) -> None:
        """Add one position of the level-0 grid: its tile_px x tile_px x 3 pixels, or None."""
        self._add(0, column, row, pixels)

    def _add(self, level: int, column: int, row: int, pixels: NDArray[np.uint8] | None) -> None:
        if pixels is not None:
            self._sink(level, column, row, pixels)
        if level + 1 == len(self._grid):
            return
        key = (level + 1, column // 2, row // 2)
        parent = self._pending.get(key)
        if parent is None:
            columns, rows = self._grid[level]
            across = min(2, columns - 2 * key[1])
            down = min(2, rows - 2 * key[2])
            parent = self._pending[key] = _Parent(None, across * down)
        if pixels is not None:
            self._draw_quarter(parent, column % 2, row % 2, pixels)
        parent.missing -= 1
        if parent.missing == 0:
            del self._pending[key]
            self._add(*key, parent.pixels)

    def _draw_quarter(self, parent: _Parent, column: int, row: int, pixels: NDArray[np.uint8]) -> None:
        side, half = self._tile_px, self._tile_px // 2
        if parent.pixels is None:
            parent.pixels = np.full((side, side, 3), self._fill, dtype=np.uint8)
        quarter = parent.pixels[row * half : (row + 1) * half, column * half : (column + 1) * half]
        quarter[...] = cv2.resize(pixels, (half, half), interpolation=cv2.INTER_AREA)


def levels_down_to(width: int, height: int, *, coarsest_px: int) -> int:
    """Return the number of levels, each half the previous one, until the longer side is at most coarsest_px."""
    levels, side = 1, max(width, height)
    while side > coarsest_px:
        side = -(-side // 2)
        levels += 1
    return levels
