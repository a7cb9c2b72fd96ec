"""Overview of a slide: a small image of the scanned area with coverage and readability masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Image, Rect, SlideInfo
from fossilray.slides.direct.listed_tiles import ListedTiles

_Read: TypeAlias = Callable[[int, int, int, int, int], tuple[Image, NDArray[np.uint8]]]
"""Pixels and coverage of level, x, y (level-0 px), width, height (px of the level); raises UnreadableRegion."""


# A level coarser than requested by up to this factor is used as it is, rather than one twice as fine.
LEVEL_TOLERANCE = 1.05


SCANNED_COVERAGE = 64
"""Coverage (0 to 255) up to which an overview's pixel counts as not scanned."""


_BLOCK_PX = 2048


# Around damage, blocks are split down to this side; after the limit below, damaged blocks are not split.
_SMALLEST_BLOCK_PX = 64


_MOST_DAMAGED_BLOCKS = 400


_UNREADABLE_GREY = 128


# Levels differ by a pixel or two at the edges of photos; missing tiles are larger.
_EDGE_PX = 5


@dataclass(frozen=True)
class Overview:
    """Small image of the scanned area, with coverage and readability of each pixel.

    rgb: (h, w, 3) uint8. coverage: (h, w) uint8, 0 where nothing was scanned.
    readable: (h, w) bool, False where pixels could not be decoded, or where the overview's level lacks tiles that
        other levels list (their rgb is mid-grey).
    scale: level-0 pixels per overview pixel. rect: area shown, level-0 px; it exceeds the bounds by less than one
        overview pixel.
    expected: (h, w) uint8, coverage, and where pixels are not readable, 255 or 0 as the slide's index lists tiles
        there; None: the same as coverage.
    """

    rgb: Image
    coverage: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    scale: float
    rect: Rect
    expected: NDArray[np.uint8] | None = None


def read_overview(
    info: SlideInfo, read: _Read, listed: ListedTiles | None, *, level: int, um_per_px: float
) -> Overview:
    """Return the scanned area at `um_per_px` or somewhat finer, from one level; unreadable pixels are marked."""
    # Whole factors keep the reduction exact and quick.
    downsample = info.levels[level].downsample
    factor = max(1, int(um_per_px * LEVEL_TOLERANCE / (downsample * info.mpp)))
    scale = downsample * factor
    bounds = info.bounds
    width, height = (max(1, math.ceil(side / scale)) for side in (bounds.width, bounds.height))
    rgb = np.full((height, width, 3), _UNREADABLE_GREY, np.uint8)
    coverage = np.full((height, width), 255, np.uint8)
    readable = np.zeros((height, width), np.bool_)

    def read_block(block: Rect) -> None:
        corner = round(bounds.x_min + block.x_min * scale), round(bounds.y_min + block.y_min * scale)
        pixels, alpha = read(level, *corner, block.width * factor, block.height * factor)
        part = np.s_[block.y_min : block.y_max, block.x_min : block.x_max]
        rgb[part] = shrink(pixels, block.width, block.height)
        coverage[part] = shrink(alpha, block.width, block.height)
        readable[part] = True

    _read_all(
        read_block,
        list(_blocks(width, height, max(1, _BLOCK_PX // factor))),
        least_px=max(1, _SMALLEST_BLOCK_PX // factor),
    )
    expected = coverage
    if listed is not None:
        covered = listed.cover((bounds.x_min, bounds.y_min), scale, (height, width), level=level)
        unseen = _without_thin_parts(covered & readable & (coverage <= SCANNED_COVERAGE))
        expected = np.where(readable & ~unseen, coverage, np.where(covered, np.uint8(255), np.uint8(0)))
        rgb[unseen] = _UNREADABLE_GREY
        readable &= ~unseen
    shown = Rect(
        bounds.x_min,
        bounds.y_min,
        round(bounds.x_min + width * scale),
        round(bounds.y_min + height * scale),
    )
    return Overview(rgb, coverage, readable, scale, shown, np.asarray(expected, np.uint8))


def shrink(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return the pixels averaged over areas to width x height."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _blocks(width: int, height: int, side: int) -> Iterator[Rect]:
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Rect(left, top, min(width, left + side), min(height, top + side))


def _read_all(read: Callable[[Rect], None], waiting: list[Rect], *, least_px: int) -> None:
    """Read each block; quarter those that cannot be read, down to `least_px`, so that little around damage is lost."""
    damaged = 0
    while waiting:
        smaller: list[Rect] = []
        for block in waiting:
            try:
                read(block)
            except UnreadableRegion:
                damaged += 1
                if damaged <= _MOST_DAMAGED_BLOCKS and max(block.width, block.height) > least_px:
                    smaller += _quarters(block)
        waiting = smaller


def _quarters(block: Rect) -> list[Rect]:
    rows, columns = (
        sorted({first, (first + last + 1) // 2, last})
        for first, last in ((block.y_min, block.y_max), (block.x_min, block.x_max))
    )
    return [
        Rect(left, top, right, bottom) for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]


def _without_thin_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    kernel = np.ones((_EDGE_PX, _EDGE_PX), np.uint8)
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0, np.bool_)
