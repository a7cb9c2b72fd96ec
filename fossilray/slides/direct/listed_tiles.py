"""Stored tiles that the index of a slide lists on any level, including those that OpenSlide does not show.

OpenSlide shows a missing tile as unscanned. The index distinguishes a lost tile from glass that was never scanned:
another level lists it. Entries that lead to no image of their own are in `index_faults`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.slides.direct.index_faults import (
    LISTED_TWICE,
    FaultyTiles,
    entry_faults,
    repeated_cells,
)
from fossilray.slides.mirax.layout import MiraxIndex, nominal_positions, stored_positions
from fossilray.slides.mirax.metadata import MiraxIndexGrid, read_grid
from fossilray.slides.mirax.names import SLIDEDAT
from fossilray.slides.mirax.slidedat import Slidedat, parse_slidedat
from fossilray.slides.tiff.directories import TiffDirectory, directories_in
from fossilray.slides.tile_layout import Ints

_MOST_CELLS = 4_000_000
_LARGEST_INDEX_BYTES = 40 * _MOST_CELLS
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _LENGTHS = 256, 257, 322, 323, 324, 325
# Largest displacement of photos from their nominal position, level-0 px, on any scanner; beyond it is damage.
_MOST_JITTER_PX = 256
# Levels of odd sizes are not exact halves of each other, so their tiles end slightly beside finer ones.
_SLACK = 0.1
_NO_RECTS = np.zeros((0, 4), np.int64)


@dataclass(frozen=True, eq=False)
class ListedTiles:
    """Tiles that a slide's index lists: rectangles (n, 4), x_min y_min x_max y_max in level-0 px.

    Those of MIRAX slides are exact to within a photo's jitter.
    finest: tiles of level 0. orphans: coarser tiles below which no finer level lists any: the finer tiles were lost.
    gaps: per level, areas of the size of a level-0 tile that the level lists and no finer level does, although these
        list other areas below the same tile. They were lost, or were never scanned, at the rim of a coarse tile.
    faulty: per level, tiles whose entry leads to no image of their own. count: of entries on all levels.
    tiles_per_level: per level, number of tiles that are listed; empty for formats that may list none.
    """

    finest: Ints
    orphans: Ints
    gaps: tuple[Ints, ...]
    faulty: tuple[FaultyTiles, ...]
    count: int
    tiles_per_level: tuple[int, ...] = ()

    def widen(self, bounds: Rect, width: int, height: int) -> Rect:
        """Return the bounds, extended by the areas that level 0 has lost, within the canvas width x height.

        bounds: OpenSlide's, which contain the tiles that level 0 lists.
        """
        lost = np.concatenate([self.orphans, *self.gaps])
        if not len(lost):
            return bounds
        low, high = lost[:, :2].min(axis=0).clip(0), lost[:, 2:].max(axis=0).clip(0, [width, height])
        return Rect(
            min(bounds.x_min, int(low[0])),
            min(bounds.y_min, int(low[1])),
            max(bounds.x_max, int(high[0])),
            max(bounds.y_max, int(high[1])),
        )

    @property
    def is_void(self) -> bool:
        """True if no level lists any tile."""
        return not (len(self.finest) or len(self.orphans))

    def fault_within(self, level: int, rect: tuple[float, float, float, float]) -> str | None:
        """Return what is wrong with a tile of the level that intersects x_min, y_min, x_max, y_max; None if nothing."""
        return self.faulty[level].reason_within(*rect) if level < len(self.faulty) else None

    def cover(
        self, frame: tuple[float, float], scale: float, shape: tuple[int, int], *, level: int
    ) -> NDArray[np.bool_]:
        """Return a mask (height, width) of the pixels that a level should show as scanned.

        An intact level shows all areas that any finer level lists. A coarser level counts only where no finer level
        lists anything, because its tiles extend over glass that was never scanned.
        frame: top left corner, level-0 px. scale: level-0 px per pixel. shape: height, width.
        """
        height, width = shape
        scanned = np.concatenate([self.finest, self.orphans, *self.gaps[: level + 1]])
        edges = np.rint((scanned - np.tile(frame, 2)) / scale).astype(np.int64)
        left, right = (edges[:, axis].clip(0, width) for axis in (0, 2))
        top, bottom = (edges[:, axis].clip(0, height) for axis in (1, 3))
        change = np.zeros((height + 1, width + 1), np.int32)
        for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
            np.add.at(change, (rows, columns), sign)
        return np.asarray(change.cumsum(axis=0).cumsum(axis=1)[:height, :width] > 0, np.bool_)


def read_listed_tiles(info: SlideInfo) -> ListedTiles | None:
    """Return the tiles that the slide's index lists; None for a format, or an index, that cannot be read."""
    try:
        if info.vendor == "mirax":
            return _of_mirax(Path(info.path), len(info.levels))
        if info.vendor in ("generic-tiff", "aperio"):
            return _of_tiff(Path(info.path), info.levels, is_sparse=info.vendor == "generic-tiff")
    except (OSError, ValueError, KeyError, struct.error, zlib.error, OverflowError):
        return None
    return None


def _of_mirax(path: Path, levels: int) -> ListedTiles | None:
    folder = path.with_suffix("")
    ini = parse_slidedat((folder / SLIDEDAT).read_bytes())
    names = ini["DATAFILE"]
    files = tuple(folder / names[f"FILE_{number}"] for number in range(int(names["FILE_COUNT"])))
    grid = read_grid(ini)
    listing = folder / ini["HIERARCHICAL"]["INDEXFILE"]
    if grid.concats[0] != 1 or grid.across * grid.down > _MOST_CELLS:
        return None
    if listing.stat().st_size > _LARGEST_INDEX_BYTES:
        return None
    index = MiraxIndex(listing.read_bytes(), grid.slide_id, len(files))
    entries = [_entries(index, grid, level) for level in range(min(levels, len(grid.concats)))]
    positions, jitter_px = _positions(ini, grid, index, files)
    cells = np.zeros((grid.down, grid.across), np.bool_)
    cells[_cells(grid, entries[0])] = True
    finest = _tile_rects(grid, positions, entries[0][:, 0])
    orphans, gaps = [_NO_RECTS], [_NO_RECTS]
    sizes = np.array([file.stat().st_size for file in files], np.int64)
    faults = [_mirax_faults(level, sizes) for level in entries]
    first = faults[0] > 0
    faulty = [FaultyTiles.of(_tile_rects(grid, positions, entries[0][first, 0]), faults[0][first])]
    for level, concat in enumerate(grid.concats[1 : len(entries)], start=1):
        tiles = entries[level]
        row, column = _cells(grid, tiles)
        below = _count(cells, row, column, row + concat, column + concat)
        is_faulty = faults[level] > 0
        lost, broken = (
            _block_rects(grid, row[chosen], column[chosen], concat, jitter_px=jitter_px)
            for chosen in (below == 0, is_faulty)
        )
        orphans.append(lost)
        faulty.append(FaultyTiles.of(broken, faults[level][is_faulty]))
        lost_row, lost_column = row[below == 0], column[below == 0]
        for rows, columns in _slices(lost_row, lost_column, lost_row + concat, lost_column + concat):
            # A still coarser tile extends over glass that was never scanned, and adds no evidence.
            cells[rows, columns] = True
        is_gap = _cells_below(grid, row, column, concat) & ~cells
        if concat > grid.divisions:
            # OpenSlide shows such a tile only where photos below it are known.
            is_gap &= _photos_of(cells, grid.divisions)
        gaps.append(_tile_rects(grid, positions, np.flatnonzero(is_gap)))
        cells |= is_gap
    counts = tuple(len(level) for level in entries)
    return ListedTiles(finest, np.concatenate(orphans), tuple(gaps), tuple(faulty), sum(counts), counts)


def _mirax_faults(entries: Ints, file_bytes: Ints) -> Ints:
    """Return the reason of each entry, (n, 4) as of `_entries`; 0 for a sound one."""
    cell, offset, length, file = entries.T
    reason = entry_faults(offset, length, file_bytes[file])
    reason[repeated_cells(cell, (file, offset))] = LISTED_TWICE
    return reason


def _entries(index: MiraxIndex, grid: MiraxIndexGrid, level: int) -> Ints:
    """Return tiles of a level inside the grid, (n, 4): cell, offset, bytes, data file; none if the list is damaged."""
    try:
        tiles = index.entries(level, most=grid.across * grid.down)
    except (ValueError, struct.error):
        return _NO_RECTS
    return tiles[tiles[:, 0] < grid.across * grid.down]


def _cells(grid: MiraxIndexGrid, entries: Ints) -> tuple[Ints, Ints]:
    row, column = np.divmod(entries[:, 0], grid.across)
    return row, column


def _cells_below(grid: MiraxIndexGrid, row: Ints, column: Ints, concat: int) -> NDArray[np.bool_]:
    """Return a mask (down, across) of the cells below tiles that join `concat` cells a side."""
    tiles = np.zeros((-(-grid.down // concat), -(-grid.across // concat)), np.bool_)
    tiles[row // concat, column // concat] = True
    return np.asarray(tiles[np.ix_(np.arange(grid.down) // concat, np.arange(grid.across) // concat)])


def _photos_of(cells: NDArray[np.bool_], divisions: int) -> NDArray[np.bool_]:
    """Return a mask of all cells of the photos that have any cell set."""
    down, across = cells.shape
    padded = np.pad(cells, ((0, -down % divisions), (0, -across % divisions)))
    photos = padded.reshape(padded.shape[0] // divisions, divisions, -1, divisions).any(axis=(1, 3))
    return np.asarray(photos.repeat(divisions, axis=0).repeat(divisions, axis=1)[:down, :across])


def _positions(
    ini: Slidedat, grid: MiraxIndexGrid, index: MiraxIndex, files: tuple[Path, ...]
) -> tuple[Ints, int]:
    """Return the position of each photo, (n, 2) level-0 px, and the largest displacement from the nominal position.

    Missing or implausible positions are replaced by nominal ones.
    """
    nominal = nominal_positions(grid)
    try:
        stored = stored_positions(ini["HIERARCHICAL"], grid, index, files)
    except (OSError, ValueError, KeyError, struct.error, zlib.error):
        stored = None
    if stored is None or len(stored) != len(nominal):
        return nominal, 0
    far = np.abs(stored - nominal).max(axis=1, initial=0)
    # Nominal positions drift with the overlap; a displacement far from the median is damage.
    usual = int(np.median(far)) if len(far) else 0
    is_odd = far > usual + _MOST_JITTER_PX
    positions = np.where(is_odd[:, None], nominal, stored)
    return positions, int(far[~is_odd].max(initial=0))


def _tile_rects(grid: MiraxIndexGrid, positions: Ints, cells: Ints) -> Ints:
    """Return the rectangles of level-0 tiles, (n, 4), from the numbers of their cells."""
    row, column = np.divmod(cells, grid.across)
    divisions = grid.divisions
    photo = row // divisions * (grid.across // divisions) + column // divisions
    is_known = photo < len(positions)
    row, column, photo = row[is_known], column[is_known], photo[is_known]
    corner = positions[photo] + np.stack([column % divisions, row % divisions], axis=-1) * grid.tile_px
    return np.asarray(np.hstack([corner, corner + grid.tile_px]), np.int64)


def _block_rects(grid: MiraxIndexGrid, row: Ints, column: Ints, concat: int, *, jitter_px: int) -> Ints:
    """Return the rectangles of a coarser level's tiles, (n, 4), by nominal photo positions, widened by the jitter."""
    rects = [
        (rect.x_min, rect.y_min, rect.x_max, rect.y_max)
        for rect in (
            grid.rect(x, y, min(concat, grid.across - x, grid.down - y))
            for y, x in zip(row.tolist(), column.tolist(), strict=True)
        )
    ]
    if not rects:
        return _NO_RECTS
    wider = np.array([-jitter_px, -jitter_px, jitter_px, jitter_px])
    return np.asarray(np.array(rects) + wider, np.int64)


def _of_tiff(path: Path, levels: Sequence[Level], *, is_sparse: bool) -> ListedTiles | None:
    with path.open("rb") as file:
        directories = [directory for directory in directories_in(file) if _TILE_WIDTH in directory.tags]
        file_bytes = os.fstat(file.fileno()).st_size
        stored = [_of_directory(level, directories, file_bytes, is_sparse=is_sparse) for level in levels]
    if stored[0] is None:
        return None
    finest_px, faults = stored[0]
    listed = faults >= 0
    orphans, known = [_NO_RECTS.astype(np.float64)], listed.copy()
    gaps = [_NO_RECTS] * len(levels)
    for level, tiles in enumerate(stored[1:], start=1):
        if tiles is not None:
            tile_px, faults = tiles
            is_stored = faults >= 0
            rects = _grid_rects(tile_px, is_stored)
            left, top, right, bottom = (rects / np.tile(finest_px, 2)).T
            first = [np.floor(side + _SLACK).astype(np.int64) for side in (top, left)]
            last = [np.ceil(side - _SLACK).astype(np.int64) for side in (bottom, right)]
            is_orphan = _count(known, *first, *last) == 0
            orphans.append(rects[is_orphan])
            for rows, columns in _slices(*(side[is_orphan] for side in (*first, *last))):
                known[rows, columns] = True
            is_gap = _cells_under(is_stored, tile_px, cells=known.shape, cell_px=finest_px) & ~known
            gaps[level] = np.rint(_grid_rects(finest_px, is_gap)).astype(np.int64)
            known |= is_gap
    finest, lost = (
        np.rint(rects).astype(np.int64) for rects in (_grid_rects(finest_px, listed), np.concatenate(orphans))
    )
    faulty = tuple(
        _faulty_tiff_tiles(*tiles) if tiles is not None else FaultyTiles.of(_NO_RECTS, _NO_RECTS[:, 0])
        for tiles in stored
    )
    count = sum(int((tiles[1] >= 0).sum()) for tiles in stored if tiles is not None)
    return ListedTiles(finest, lost, tuple(gaps), faulty, count)


def _of_directory(
    level: Level, directories: Sequence[TiffDirectory], file_bytes: int, *, is_sparse: bool
) -> tuple[tuple[float, float], Ints] | None:
    """Return the width and height of a level's tiles in level-0 px, and what is wrong with each, (rows, columns).

    The latter is 0 for a sound tile and -1 for one that is not stored: 0 bytes at 0, in a sparse TIFF. None unless
    exactly one directory has the level's size and lists its tiles.
    """
    fitting = [
        directory
        for directory in directories
        if (directory.first(_WIDTH), directory.first(_HEIGHT)) == (level.width, level.height)
    ]
    if len(fitting) != 1:
        return None
    width, height = int(fitting[0].first(_TILE_WIDTH)), int(fitting[0].first(_TILE_HEIGHT))
    if min(width, height) < 1:
        return None
    across, down = -(-level.width // width), -(-level.height // height)
    offset, length = (fitting[0].numbers(tag, most=_MOST_CELLS) for tag in (_OFFSETS, _LENGTHS))
    if not len(offset) == len(length) == across * down:
        return None
    faults = entry_faults(offset, length, file_bytes)
    if is_sparse:
        faults[(offset == 0) & (length == 0)] = -1
    return (width * level.downsample, height * level.downsample), faults.reshape(down, across)


def _faulty_tiff_tiles(tile_px: tuple[float, float], faults: Ints) -> FaultyTiles:
    return FaultyTiles.of(_grid_rects(tile_px, faults > 0), faults[faults > 0])


def _cells_under(
    listed: NDArray[np.bool_],
    tile_px: tuple[float, float],
    *,
    cells: tuple[int, ...],
    cell_px: tuple[float, float],
) -> NDArray[np.bool_]:
    """Return a mask (rows, columns) of the cells whose centre is in a listed tile."""
    row, column = (
        ((np.arange(cells[axis]) + 0.5) * cell_px[1 - axis] / tile_px[1 - axis])
        .astype(np.int64)
        .clip(0, listed.shape[axis] - 1)
        for axis in (0, 1)
    )
    return np.asarray(listed[np.ix_(row, column)])


def _grid_rects(tile_px: tuple[float, float], listed: NDArray[np.bool_]) -> NDArray[np.float64]:
    row, column = np.nonzero(listed)
    corner = np.stack([column * tile_px[0], row * tile_px[1]], axis=-1)
    return np.hstack([corner, corner + np.array(tile_px)])


def _slices(top: Ints, left: Ints, bottom: Ints, right: Ints) -> Iterator[tuple[slice, slice]]:
    for first, start, last, end in zip(
        top.tolist(), left.tolist(), bottom.tolist(), right.tolist(), strict=True
    ):
        yield slice(first, last), slice(start, end)


def _count(cells: NDArray[np.bool_], top: Ints, left: Ints, bottom: Ints, right: Ints) -> Ints:
    """Return the number of set cells in each block of rows and columns."""
    sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.int64)
    sums[1:, 1:] = cells.cumsum(axis=0).cumsum(axis=1)
    top, bottom = (side.clip(0, cells.shape[0]) for side in (top, bottom))
    left, right = (side.clip(0, cells.shape[1]) for side in (left, right))
    return np.asarray(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left], np.int64)
