"""Composition of tile pieces into a window, with the same bytes as OpenSlide 4.0 through cairo and pixman.

Where pieces overlap, the one painted first is visible (operator SATURATE: a later one adds up to an alpha of 255).
A piece at a fraction of a pixel is interpolated between four neighbours, transparent beyond its edge. Pixman does
so in float32, and a byte is 256 times the value, rounded down. It treats a piece as opaque only if that is a whole
tile without alpha and no edge of it is visible in the window; then it computes in bytes, rounding down.
Positions are rounded to 1/65536 px; those that are whole to the nearest 1/256 in both directions count as whole.

Inside their edges pieces hide those below, so they are drawn from the lowest to the topmost, and edges last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Image
from fossilray.slides.direct.edges import EdgeBlender
from fossilray.slides.direct.interpolation import interpolated
from fossilray.slides.direct.placement import PiecePlacement, everywhere, is_everywhere
from fossilray.slides.tile_layout import LevelLayout

Alpha: TypeAlias = NDArray[np.uint8]
TileReader: TypeAlias = Callable[[int, bool], Image]
"""Gives the pixels of a stored tile of the level by its number, in one block of memory. True: all of it lies inside the
window, so that its neighbours will hardly need it; its memory may serve the next call."""

_BLOCK_PX = 4096
_PATCH_PX = 256


def compose_window(
    level: LevelLayout, tile: TileReader, x: int, y: int, width: int, height: int
) -> tuple[Image, Alpha]:
    """Return the premultiplied colours of a window, (height, width, 3), and its coverage, (height, width).

    x, y: top left corner, level-0 px. width, height: px of the level. The coverage of a fully covered window is one
    repeated value and read-only. Raises what `tile` raises.
    """
    blocks = list(_blocks(level, x, y, width, height))
    covered_px = sum(block.coverage.size for block in blocks if is_everywhere(block.coverage))
    if covered_px == width * height:
        rgb, alpha = np.empty((height, width, 3), np.uint8), everywhere(width, height)
    else:
        rgb, alpha = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        for block in blocks:
            alpha[block.rows, block.columns] = block.coverage
    for block in blocks:
        _paint_block(block.placing, tile, rgb[block.rows, block.columns], alpha[block.rows, block.columns])
    return rgb, alpha


def touched_tiles(level: LevelLayout, x: int, y: int, width: int, height: int) -> list[int]:
    """Return the numbers of the stored tiles whose pixels `compose_window` reads for a window."""
    numbers = [placing.number for _, _, placing in _placements(level, x, y, width, height)]
    return np.unique(level.pieces.tile[np.concatenate(numbers)]).tolist() if numbers else []


def flatten(rgb: Image, alpha: Alpha, background_rgb: tuple[int, int, int]) -> Image:
    """Blend premultiplied `rgb` with the background, weighted by 255 - alpha, in the same memory, and return it."""
    if is_everywhere(alpha) or alpha.min() == 255:
        return rgb
    missing = np.arange(255, -1, -1, dtype=np.float64)[:, None] / 255
    shade = np.round(missing * background_rgb).astype(np.uint8)[None]
    ground = np.full((_PATCH_PX, _PATCH_PX, 3), shade[0, 0], np.uint8)
    height, width = alpha.shape
    for top in range(0, height, _PATCH_PX):
        for left in range(0, width, _PATCH_PX):
            part = np.s_[top : top + _PATCH_PX, left : left + _PATCH_PX]
            covered = alpha[part]
            if covered.min() == 255:
                continue
            if covered.max() == 0:
                added = ground[: covered.shape[0], : covered.shape[1]]
            else:
                added = np.asarray(cv2.LUT(cv2.cvtColor(covered, cv2.COLOR_GRAY2RGB), shade), np.uint8)
            rgb[part] = cv2.add(rgb[part], added)
    return rgb


@dataclass(frozen=True, eq=False)
class _Block:
    """Part of a window that OpenSlide paints at once, up to 4096 px a side; coverage: inside the edges of pieces."""

    rows: slice
    columns: slice
    placing: PiecePlacement
    coverage: Alpha


def _blocks(level: LevelLayout, x: int, y: int, width: int, height: int) -> Iterator[_Block]:
    for rows, columns, placing in _placements(level, x, y, width, height):
        yield _Block(rows, columns, placing, placing.coverage())


def _placements(
    level: LevelLayout, x: int, y: int, width: int, height: int
) -> Iterator[tuple[slice, slice, PiecePlacement]]:
    """Yield the rows and columns of each block of a window, and the pieces that touch it."""
    # OpenSlide rounds the part left of or above the canvas in each block.
    for top in range(0, height, _BLOCK_PX):
        for left in range(0, width, _BLOCK_PX):
            begin_x, skipped_x = _within(int(x + left * level.downsample), level.downsample)
            begin_y, skipped_y = _within(int(y + top * level.downsample), level.downsample)
            rows = slice(top + skipped_y, min(top + _BLOCK_PX, height))
            columns = slice(left + skipped_x, min(left + _BLOCK_PX, width))
            if rows.start < rows.stop and columns.start < columns.stop:
                shown = columns.stop - columns.start, rows.stop - rows.start
                yield rows, columns, PiecePlacement.of(level, begin_x, begin_y, *shown)


def _within(position: int, downsample: float) -> tuple[float, int]:
    """Return the position where painting begins, px of the level, and the number of empty px before it."""
    return (position / downsample, 0) if position >= 0 else (0.0, int(-position / downsample))


def _paint_block(placing: PiecePlacement, tile: TileReader, rgb: Image, alpha: Alpha) -> None:
    """Paint the pieces of a block into `rgb`; update `alpha` at edges only, and not if it is `everywhere`."""
    edges = EdgeBlender(placing) if placing.is_between else None
    stored, is_all = placing.level.pieces.tile[placing.number].tolist(), placing.are_all_seen()
    columns, rows = (corner.tolist() for corner in placing.corners)
    for at in range(len(stored) - 1, -1, -1):
        pixels = tile(stored[at], is_all[at])
        left, right, top, bottom = placing.inner[at]
        source = pixels[top + rows[at] :, left + columns[at] :]
        if edges is None:
            rgb[top:bottom, left:right] = source[: bottom - top, : right - left]
            continue
        edges.add_tile(at, pixels)
        if left < right:
            across, down = float(placing.across.fraction[at]), float(placing.down.fraction[at])
            # Between pixels, one more on each side.
            source = source[: bottom - top + (down > 0), : right - left + (across > 0)]
            is_opaque = bool(placing.is_opaque[at])
            rgb[top:bottom, left:right] = interpolated(source, across, down, is_opaque=is_opaque)
    if edges is not None:
        colours, cover = edges.blend()
        rgb[edges.y, edges.x] = colours
        if not is_everywhere(alpha):
            alpha[edges.y, edges.x] = cover
