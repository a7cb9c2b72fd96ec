"""Pieces of tiles laid onto a window, to the bit as OpenSlide 4.0 does it through cairo and pixman.

Where pieces overlap the one painted first shows (the operator is SATURATE: a later one adds what alpha lacks).
A piece at a fraction of a pixel is interpolated between four neighbours, with nothing beyond its rim. Pixman does
so in float32, and a byte is 256 times the value, rounded down. Only if a piece is a whole tile without alpha, none
of whose rim shows in the window, does it know that nothing shines through: then it reckons in bytes, rounding down.
Places are rounded to 1/65536 px; those that are whole to the nearest 1/256 in both directions count as whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.direct.placed_level import Ints, PlacedLevel
from fossilray.records import Image

Alpha: TypeAlias = NDArray[np.uint8]
Tile: TypeAlias = Callable[[int, bool], Image]
"""Gives the pixels of a stored tile of the level by its number. True: all of it lies inside the window, so that its
neighbours will hardly ask for it; its memory may serve the next call."""
Table: TypeAlias = NDArray[np.float32]
"""The value of each byte."""

_BLOCK_PX = 4096
_PATCH_PX = 256
_STRIP_PX = 1 << 16
# The fixed-point numbers of cairo and of pixman.
_CAIRO_UNITS = 1 << 8
_PIXMAN_UNITS = 1 << 16
_WHOLE: Table = np.arange(256, dtype=np.float32)
# 256 times the share of 255; the factor, a power of two, changes no rounding.
_SCALED: Table = _WHOLE * (np.float32(1) / np.float32(255)) * np.float32(256)


def paint(level: PlacedLevel, tile: Tile, x: int, y: int, width: int, height: int) -> tuple[Image, Alpha]:
    """A window without background (its colours are premultiplied), and its coverage.

    x, y: level-0 px. width, height: px of the level. Raises what `tile` raises.
    """
    rgb = np.zeros((height, width, 3), np.uint8)
    alpha = np.zeros((height, width), np.uint8)
    # OpenSlide paints in blocks and rounds what lies left of or above the canvas in each.
    for top in range(0, height, _BLOCK_PX):
        for left in range(0, width, _BLOCK_PX):
            begin_x, skipped_x = _within(int(x + left * level.downsample), level.downsample)
            begin_y, skipped_y = _within(int(y + top * level.downsample), level.downsample)
            part = np.s_[
                top + skipped_y : max(top + skipped_y, min(top + _BLOCK_PX, height)),
                left + skipped_x : max(left + skipped_x, min(left + _BLOCK_PX, width)),
            ]
            _paint_block(level, tile, begin_x, begin_y, rgb[part], alpha[part])
    return rgb, alpha


def on_background(rgb: Image, alpha: Alpha, background_rgb: tuple[int, int, int]) -> Image:
    """`rgb` itself, premultiplied, after adding what alpha lacks of the background."""
    if alpha.min() == 255:
        return rgb
    missing = np.arange(255, -1, -1, dtype=np.float64)[:, None] / 255
    shade = np.round(missing * background_rgb).astype(np.uint8)[None]
    height, width = alpha.shape
    for top in range(0, height, _PATCH_PX):
        for left in range(0, width, _PATCH_PX):
            part = np.s_[top : top + _PATCH_PX, left : left + _PATCH_PX]
            if alpha[part].min() < 255:
                added = cv2.LUT(cv2.cvtColor(alpha[part], cv2.COLOR_GRAY2RGB), shade)
                rgb[part] = cv2.add(rgb[part], added)
    return rgb


def _within(place: int, downsample: float) -> tuple[float, int]:
    """Where painting begins, in px of the level, and how many px before it stay empty."""
    return (place / downsample, 0) if place >= 0 else (0.0, int(-place / downsample))


def _paint_block(level: PlacedLevel, tile: Tile, x: float, y: float, rgb: Image, alpha: Alpha) -> None:
    height, width = alpha.shape
    if not alpha.size:
        return
    found = level.touching(x, y, width, height)
    if level.is_whole and _is_near_whole(x) and _is_near_whole(y):
        # Laid from the lowest to the uppermost, the same shows.
        for number in reversed(found):
            _lay(level, tile, number, round(x), round(y), rgb, alpha)
    else:
        for number in found:
            _blend(level, tile, number, x, y, rgb, alpha)


def _lay(level: PlacedLevel, tile: Tile, number: int, x: int, y: int, rgb: Image, alpha: Alpha) -> None:
    pieces = level.pieces
    width, height = level.shown_px(number)
    left, top = int(pieces.left[number]) - x, int(pieces.top[number]) - y
    rows = slice(max(0, top), min(alpha.shape[0], top + height))
    columns = slice(max(0, left), min(alpha.shape[1], left + width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    down, across = pieces.source_y[number] - top, pieces.source_x[number] - left
    rgb[rows, columns] = tile(int(pieces.tile[number]), _is_all(level, rows, columns))[
        rows.start + down : rows.stop + down, columns.start + across : columns.stop + across
    ]
    alpha[rows, columns] = 255


def _blend(level: PlacedLevel, tile: Tile, number: int, x: float, y: float, rgb: Image, alpha: Alpha) -> None:
    pieces = level.pieces
    width, height = level.shown_px(number)
    left, top = _as_pixman_places(float(pieces.left[number]) - x, float(pieces.top[number]) - y)
    rows = _touched(top, height, alpha.shape[0])
    columns = _touched(left, width, alpha.shape[1])
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    across, down = math.ceil(left) - left, math.ceil(top) - top
    corner_x, corner_y = int(pieces.source_x[number]), int(pieces.source_y[number])
    pixels = tile(int(pieces.tile[number]), _is_all(level, rows, columns))
    under = rgb[rows, columns], alpha[rows, columns]
    if under[1].min(initial=255) == 255:
        return
    source = _with_rim(
        pixels[corner_y : corner_y + height, corner_x : corner_x + width],
        slice(rows.start - math.ceil(top), rows.stop - math.ceil(top) + 1),
        slice(columns.start - math.ceil(left), columns.stop - math.ceil(left) + 1),
    )
    is_tile = (pieces.width, pieces.height) == (level.tiles.width, level.tiles.height)
    rimless = _is_inside(rows, top, height) and _is_inside(columns, left, width)
    is_opaque = is_tile and level.canvas_px is None and (rimless or not (across or down))
    shares, beside_y, beside_x = (
        _shares(across, down),
        _beside(rows, top, height),
        _beside(columns, left, width),
    )
    # Large tiles go by rows, for each pixel takes some 40 bytes meanwhile.
    count = max(1, _STRIP_PX // len(beside_x))
    for first in range(0, len(beside_y), count):
        part, known = slice(first, first + count), source[first : first + count + 1]
        if is_opaque:
            _put_beneath(under[0][part], under[1][part], _interpolated(known, across, down, _WHOLE))
        else:
            colours = _interpolated(known, across, down, _SCALED)
            _saturate(under[0][part], under[1][part], colours, shares[beside_y[part, None], beside_x])


def _is_near_whole(place: float) -> bool:
    return round(place * _CAIRO_UNITS) % _CAIRO_UNITS == 0


def _as_pixman_places(left: float, top: float) -> tuple[float, float]:
    if _is_near_whole(left) and _is_near_whole(top):
        return float(round(left)), float(round(top))
    return round(left * _PIXMAN_UNITS) / _PIXMAN_UNITS, round(top * _PIXMAN_UNITS) / _PIXMAN_UNITS


def _is_all(level: PlacedLevel, rows: slice, columns: slice) -> bool:
    """Whether a whole stored tile is seen there."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return bool(height >= level.tiles.height and width >= level.tiles.width)


def _touched(start: float, extent: int, most: int) -> slice:
    """The pixels of a window that a piece touches."""
    return slice(max(0, math.floor(start)), min(most, math.ceil(start + extent)))


def _is_inside(touched: slice, start: float, extent: int) -> bool:
    """Whether all that these pixels are interpolated from lies on the piece."""
    return bool(start <= touched.start and touched.stop < start + extent)


def _beside(touched: slice, start: float, extent: int) -> Ints:
    """Whether each of these pixels lies before the rim along one axis (0), well on the piece (1) or on its last (2)."""
    first = np.arange(touched.start, touched.stop) - math.ceil(start)
    return (first >= 0).astype(np.int64) + (first >= extent - 1)


def _shares(across: float, down: float) -> NDArray[np.float32]:
    """What a piece covers of a pixel, summed as its colours are: (3, 3), by what is beside it down and across."""
    first, second = np.array([0, 1, 1], np.float32), np.array([1, 1, 0], np.float32)
    shares: NDArray[np.float32] = np.outer(first, first) * np.float32((1 - across) * (1 - down))
    shares += np.outer(first, second) * np.float32(across * (1 - down))
    shares += np.outer(second, first) * np.float32((1 - across) * down)
    shares += np.outer(second, second) * np.float32(across * down)
    return shares


def _with_rim(piece: Image, rows: slice, columns: slice) -> Image:
    """Part of a piece, black where it reaches one pixel over the rim."""
    height, width = piece.shape[:2]
    inner = piece[max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop]
    rims = (
        max(0, -rows.start),
        max(0, rows.stop - height),
        max(0, -columns.start),
        max(0, columns.stop - width),
    )
    if not any(rims):
        return inner
    return np.asarray(cv2.copyMakeBorder(inner, *rims, cv2.BORDER_CONSTANT, value=(0, 0, 0)), np.uint8)


def _interpolated(source: Image, across: float, down: float, values: Table) -> NDArray[np.float32]:
    """Each pixel of all but the last row and column, mixed with its right and lower neighbours."""
    known = np.asarray(cv2.LUT(source, values), np.float32)
    mixed: NDArray[np.float32] = known[:-1, :-1] * np.float32((1 - across) * (1 - down))
    if across:
        mixed += known[:-1, 1:] * np.float32(across * (1 - down))
    if down:
        mixed += known[1:, :-1] * np.float32((1 - across) * down)
    if across and down:
        mixed += known[1:, 1:] * np.float32(across * down)
    return mixed


def _put_beneath(rgb: Image, alpha: Alpha, colours: NDArray[np.float32]) -> None:
    """Lay an opaque piece under what is there. rgb, alpha: changed."""
    added = colours.astype(np.uint8)
    fresh = alpha == 0
    begun = _begun(alpha, fresh)
    if begun is not None:
        product = added[begun].astype(np.uint16) * (255 - alpha[begun].astype(np.uint16))[:, None] + 128
        rgb[begun] = cv2.add(rgb[begun], ((product + (product >> 8)) >> 8).astype(np.uint8))
    _fill(rgb, fresh, added)
    alpha[...] = 255


def _saturate(rgb: Image, alpha: Alpha, colours: NDArray[np.float32], cover: NDArray[np.float32]) -> None:
    """Add what alpha lacks. rgb, alpha: changed. colours: premultiplied, 256 times. cover: of the piece, 0 to 1."""
    fresh = alpha == 0
    begun = _begun(alpha, fresh)
    if begun is not None:
        rgb[begun], alpha[begun] = _mixed(rgb[begun], alpha[begun], colours[begun], cover[begun])
    _fill(rgb, fresh, _bytes(colours))
    _fill(alpha, fresh, _bytes(cover * np.float32(256)))


def _begun(alpha: Alpha, fresh: NDArray[np.bool_]) -> tuple[Ints, Ints] | None:
    """Rows and columns of what was painted, but not to the full."""
    # Flat, for numpy is slow at finding places in two dimensions.
    found = np.flatnonzero(~(fresh | (alpha == 255)))
    return np.divmod(found, alpha.shape[1]) if len(found) else None


def _fill(target: NDArray[np.uint8], where: NDArray[np.bool_], values: NDArray[np.uint8]) -> None:
    if where.all():
        target[...] = values
    else:
        cv2.copyTo(values, where.view(np.uint8), target)


def _mixed(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], colours: NDArray[np.float32], cover: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    unit = np.float32(1) / np.float32(255)
    one, scale = np.float32(1), np.float32(256)
    there = alpha.astype(np.float32) * unit
    with np.errstate(divide="ignore"):
        factor = np.clip((one - there) / cover, 0, one)
    mixed = colours / scale * factor[:, None] + rgb.astype(np.float32) * unit
    return _bytes(np.minimum(mixed, one) * scale), _bytes(np.minimum(cover * factor + there, one) * scale)


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rounded down, as bytes. values: changed."""
    np.minimum(values, np.float32(255), out=values)
    return values.astype(np.uint8)
