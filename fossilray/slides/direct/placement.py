"""Positions of the pieces that touch a window, as cairo and pixman compute them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.slides.tile_layout import Floats, Ints, LevelLayout

Bools: TypeAlias = NDArray[np.bool_]

# The fixed-point numbers of cairo and of pixman.
_CAIRO_UNITS = 1 << 8
_PIXMAN_UNITS = 1 << 16


def everywhere(width: int, height: int) -> NDArray[np.uint8]:
    """Return the coverage of a fully covered window: 255, (height, width), one repeated value, read-only."""
    return np.ndarray((height, width), np.uint8, bytes([255]), strides=(0, 0))


def is_everywhere(coverage: NDArray[np.uint8]) -> bool:
    """Return whether the coverage was made by `everywhere`."""
    return not any(coverage.strides)


@dataclass(frozen=True, eq=False)
class Spans:
    """Extents of pieces along one axis of a window, in its px and not cropped to it; arrays run over pieces.

    begin, end: pixels touched. inner_begin, inner_end: pixels covered completely. fraction: offset of the window's
    pixels from the piece's, in [0, 1). size: px of the piece that are shown.
    """

    begin: Ints
    end: Ints
    inner_begin: Ints
    inner_end: Ints
    fraction: Floats
    size: Ints

    @classmethod
    def of(cls, start: Floats, size: Ints) -> Self:
        begin, inner_begin = np.floor(start), np.ceil(start)
        end, inner_end = np.ceil(start + size), np.floor(start + size)
        return cls(
            begin.astype(np.int64),
            end.astype(np.int64),
            inner_begin.astype(np.int64),
            inner_end.astype(np.int64),
            inner_begin - start,
            size,
        )

    @classmethod
    def whole(cls, start: Ints, size: Ints) -> Self:
        """Return the spans of pieces at whole pixels."""
        end = start + size
        return cls(start, end, start, end, np.zeros(len(start)), size)

    def touch(self, extent: int) -> Bools:
        """Return a mask of the pieces that touch [0, extent)."""
        return np.asarray((self.begin < extent) & (self.end > 0) & (self.size > 0))

    def hold(self, extent: int) -> Bools:
        """Return a mask of the pieces whose pixels in [0, extent) are interpolated from their own pixels alone."""
        begin, end = np.maximum(self.begin, 0), np.minimum(self.end, extent)
        return np.asarray((begin >= self.inner_begin) & (end < self.inner_begin - self.fraction + self.size))

    def share(self, some: Ints, others: Ints) -> Bools:
        """Return a mask of the pairs (some, others) of pieces that touch a common pixel."""
        return np.asarray((self.begin[some] < self.end[others]) & (self.begin[others] < self.end[some]))

    def chosen(self, which: Bools) -> Self:
        begin, end, inner_begin = self.begin[which], self.end[which], self.inner_begin[which]
        return type(self)(
            begin, end, inner_begin, self.inner_end[which], self.fraction[which], self.size[which]
        )


@dataclass(frozen=True, eq=False)
class PiecePlacement:
    """Pieces that touch a window, topmost first; arrays and lists run over them.

    width, height: of the window, px. number: of the piece on the level. across, down: extents along x and y.
    is_between: any piece may be at a fraction of a pixel.
    """

    level: LevelLayout
    width: int
    height: int
    number: Ints
    across: Spans
    down: Spans
    is_between: bool

    @classmethod
    def of(cls, level: LevelLayout, x: float, y: float, width: int, height: int) -> Self:
        """Return the placement of the pieces that touch a window; x, y: its top left corner, px of the level."""
        number = level.touching(x, y, width, height)
        pieces, sizes = level.pieces, level.shown_px(number)
        is_between = not (level.is_whole and _is_near_whole(x) and _is_near_whole(y))
        if is_between:
            across, down = _between(pieces.left[number] - x, pieces.top[number] - y, *sizes)
        else:
            across = Spans.whole(pieces.left[number].astype(np.int64) - round(x), sizes[0])
            down = Spans.whole(pieces.top[number].astype(np.int64) - round(y), sizes[1])
        if is_between or level.canvas_px:
            touch = across.touch(width) & down.touch(height)
            number, across, down = number[touch], across.chosen(touch), down.chosen(touch)
        return cls(level, width, height, number, across, down, is_between and bool(len(number)))

    @cached_property
    def is_opaque(self) -> Bools:
        """Mask of the pieces that pixman treats as opaque in the window."""
        tiles, pieces = self.level.tiles, self.level.pieces
        if self.level.canvas_px or (pieces.width, pieces.height) != (tiles.width, tiles.height):
            return np.zeros(len(self.number), np.bool_)
        has_no_rim = self.across.hold(self.width) & self.down.hold(self.height)
        return np.asarray(has_no_rim | ((self.across.fraction == 0) & (self.down.fraction == 0)))

    def are_all_seen(self) -> list[bool]:
        """Return for each piece whether at least the size of a stored tile is visible in the window."""
        tiles = self.level.tiles
        if self.width < tiles.width or self.height < tiles.height:
            return [False] * len(self.number)
        wide = np.minimum(self.across.end, self.width) - np.maximum(self.across.begin, 0) >= tiles.width
        high = np.minimum(self.down.end, self.height) - np.maximum(self.down.begin, 0) >= tiles.height
        listed: list[bool] = (wide & high).tolist()
        return listed

    @cached_property
    def inner(self) -> list[tuple[int, int, int, int]]:
        """Area that each piece covers completely, in px of the window: left, right, top, bottom; zeros if empty."""
        across, down = self.across, self.down
        left, top = np.maximum(across.inner_begin, 0), np.maximum(down.inner_begin, 0)
        right, bottom = np.minimum(across.inner_end, self.width), np.minimum(down.inner_end, self.height)
        edges = zip(left.tolist(), right.tolist(), top.tolist(), bottom.tolist(), strict=True)
        return [edge if edge[0] < edge[1] and edge[2] < edge[3] else (0, 0, 0, 0) for edge in edges]

    @cached_property
    def corners(self) -> tuple[Ints, Ints]:
        """Offsets from a column and a row of the window to those of each piece's tile."""
        columns, rows = self.level.pieces.source_x[self.number], self.level.pieces.source_y[self.number]
        return columns - self.across.inner_begin, rows - self.down.inner_begin

    def coverage(self) -> NDArray[np.uint8]:
        """Return the coverage: 255 where a piece covers a pixel completely, else 0; `everywhere` if it is all 255."""
        # Computed on the rectangles into which all edges divide the window.
        columns = sorted({0, self.width, *(edge for box in self.inner for edge in box[:2])})
        rows = sorted({0, self.height, *(edge for box in self.inner for edge in box[2:])})
        column_at = {edge: at for at, edge in enumerate(columns)}
        row_at = {edge: at for at, edge in enumerate(rows)}
        covered = np.zeros((len(rows) - 1, len(columns) - 1), np.uint8)
        for left, right, top, bottom in self.inner:
            covered[row_at[top] : row_at[bottom], column_at[left] : column_at[right]] = 255
        if covered.all():
            return everywhere(self.width, self.height)
        return np.repeat(np.repeat(covered, np.diff(columns), axis=1), np.diff(rows), axis=0)

    def neighbours(self) -> tuple[Ints, Ints]:
        """Return all pairs of pieces that touch a common pixel, including each piece with itself."""
        pieces = self.level.pieces
        column, far_x = _cells(pieces.column[self.number], self.across, pieces.advance_x)
        row, far_y = _cells(pieces.row[self.number], self.down, pieces.advance_y)
        at = np.full((row.max() + far_y + 1, column.max() + far_x + 1), -1, np.int64)
        at[row, column] = np.arange(len(self.number))
        pairs: list[tuple[Ints, Ints]] = []
        for down in range(-far_y, far_y + 1):
            for across in range(-far_x, far_x + 1):
                other = at[row + down, column + across]
                here = np.flatnonzero(other >= 0)
                other = other[here]
                share = self.across.share(here, other) & self.down.share(here, other)
                pairs.append((here[share], other[share]))
        return np.concatenate([here for here, _ in pairs]), np.concatenate([other for _, other in pairs])


def _cells(cells: Ints, spans: Spans, advance: float) -> tuple[Ints, int]:
    """Return the cells along one axis and the largest cell distance of touching pieces; the lowest cell equals it."""
    displacement = spans.begin - cells * advance
    # Each touches up to a pixel more than its size, on both sides.
    far = math.ceil((int(spans.size.max()) + 4 + float(np.ptp(displacement))) / advance)
    far = min(far, int(np.ptp(cells)))
    return cells - cells.min() + far, far


def _between(left: Floats, top: Floats, widths: Ints, heights: Ints) -> tuple[Spans, Spans]:
    are_whole = _are_near_whole(left) & _are_near_whole(top)
    across, down = (
        np.where(are_whole, np.round(positions), np.round(positions * _PIXMAN_UNITS) / _PIXMAN_UNITS)
        for positions in (left, top)
    )
    return Spans.of(across, widths), Spans.of(down, heights)


def _are_near_whole(positions: Floats) -> Bools:
    return np.asarray(np.round(positions * _CAIRO_UNITS) % _CAIRO_UNITS == 0)


def _is_near_whole(position: float) -> bool:
    return round(position * _CAIRO_UNITS) % _CAIRO_UNITS == 0
