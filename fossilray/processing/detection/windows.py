"""Plan the windows of a pass: all foreground in one core each, with few pixels.

The lattice is divided into cores, which own the objects in them. Large cores spend little on halos, small ones fit the
foreground: a core is halved where that costs less, between objects rather than through them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Rect
from fossilray.processing.detection.passes import DetectionPass, Tile

_Mask = NDArray[np.bool_]

# Fixed cost of a window in detection px: 4 to 5 ms of reading and calling at 17 MP/s (bfloat16).
_WINDOW_COST_PX = 80_000
# A network prepares for each new shape: on a CPU 7 ms for a small window, 50 for a large one. With sides rounded to
# this, detection on slides took 0 to 20 % less time than with any side; with 128 px the same or more.
_SIDES_PX = 64
# Halves of a core with this share of foreground would show most of it twice.
_FULL_SHARE = 0.8
# Cores are not halved below this: the halo is then much larger than the core.
_SMALLEST_CORE_PX = 64
_GAPS_TRIED = 3


@dataclass(frozen=True)
class WindowPlan:
    """Tiles of a pass in the order of detection, and cores that are background.

    The cores of both cover the lattice once. Tiles of one shape follow one another.
    """

    tiles: tuple[Tile, ...]
    blank: tuple[Rect, ...]

    @property
    def megapixels(self) -> float:
        """Megapixels that the detector is shown."""
        return sum(tile.window.width * tile.window.height for tile in self.tiles) / 1e6


def scanned_in_tiles_mm2(detection_pass: DetectionPass, tiles: Iterable[Tile]) -> float:
    """Scanned area in the cores of tiles, without the parts of cores beyond it."""
    areas = detection_pass.unit_areas_mm2()
    return float(sum(areas[detection_pass.units_in(tile.core)].sum() for tile in tiles))


def plan_windows(
    detection_pass: DetectionPass, foreground: _Mask, *, multiple_px: int = _SIDES_PX
) -> WindowPlan:
    """Plan windows that show all foreground units (rows, columns), each with its halo.

    multiple_px: sides of windows are rounded up to it, within the scanned area where possible, for few shapes.
    """
    if foreground.size == 0:
        return WindowPlan((), ())
    planner = _Planner(detection_pass, foreground, multiple_px=multiple_px)
    step = detection_pass.core_px // detection_pass.unit_px
    leaves = [
        leaf
        for top in range(0, detection_pass.rows, step)
        for left in range(0, detection_pass.columns, step)
        for leaf in planner.divide(
            _Span(left, top, min(left + step, detection_pass.columns), min(top + step, detection_pass.rows))
        ).leaves
    ]
    return WindowPlan(
        _in_plan_order(
            detection_pass, ((leaf.core, leaf.window) for leaf in leaves if leaf.window is not None)
        ),
        tuple(_rect(detection_pass, leaf.core) for leaf in leaves if leaf.window is None),
    )


def split_tile(detection_pass: DetectionPass, tile: Tile) -> list[Tile]:
    """Split a tile into up to four with cores half as wide and high; none if its core has the smallest size.

    For a window that cannot be read whole. The parts together show the same halo.
    """
    core, window, unit = tile.core, tile.window, detection_pass.unit_px
    if max(core.width, core.height) <= max(_SMALLEST_CORE_PX, unit):
        return []
    xs, ys = (
        sorted({first, first + max(1, round((last - first) / unit / 2)) * unit, last})
        for first, last in ((core.x_min, core.x_max), (core.y_min, core.y_max))
    )
    halo = detection_pass.halo_px
    return [
        Tile(
            tile.pass_number,
            tile.index,
            Rect(left, top, right, bottom),
            Rect(
                max(window.x_min, left - halo),
                max(window.y_min, top - halo),
                min(window.x_max, right + halo),
                min(window.y_max, bottom + halo),
            ),
        )
        for top, bottom in pairwise(ys)
        for left, right in pairwise(xs)
    ]


class _Span(NamedTuple):
    """A half-open rectangle in units of the lattice."""

    left: int
    top: int
    right: int
    bottom: int


class _Leaf(NamedTuple):
    core: _Span
    window: _Span | None


class _Division(NamedTuple):
    cost: float
    leaves: list[_Leaf]


class _Planner:
    def __init__(self, detection_pass: DetectionPass, foreground: _Mask, *, multiple_px: int) -> None:
        unit = detection_pass.unit_px
        self._foreground = foreground
        self._reach, self._context = detection_pass.reach_px // unit, detection_pass.context_px // unit
        self._smallest = max(1, _SMALLEST_CORE_PX // unit)
        self._multiple = max(1, math.ceil(multiple_px / unit))
        self._window_cost = _WINDOW_COST_PX / unit**2
        wide = 2 * self._context + 1
        around = cv2.dilate(foreground.astype(np.uint8), np.ones((wide, wide), np.uint8))
        self._shown = np.asarray(cv2.integral(around), np.int64)

    def divide(self, core: _Span) -> _Division:
        """Divide the core into one window or several, whichever costs less."""
        window = self._window(core)
        alone = _Division(self._cost(window), [_Leaf(core, window)])
        if window is None or self._is_full(core):
            return alone
        halves = [
            (self._cost(self._window(first)) + self._cost(self._window(second)), first, second)
            for first, second in self._cuts(core)
        ]
        if not halves:
            return alone
        _, *cheapest = min(halves)
        first, second = map(self.divide, cheapest)
        if first.cost + second.cost >= alone.cost:
            return alone
        return _Division(first.cost + second.cost, first.leaves + second.leaves)

    def _window(self, core: _Span) -> _Span | None:
        """The window that shows all objects of the core; None if the core is background.

        An object extends half its length from its centre, and its length from any part of it.
        """
        extent = self._extent(core)
        if extent is None:
            return None
        reach = self._reach
        within = _Span(
            max(0, core.left - reach, extent.left - 2 * reach),
            max(0, core.top - reach, extent.top - 2 * reach),
            min(core.right + reach, extent.right + 2 * reach),
            min(core.bottom + reach, extent.bottom + 2 * reach),
        )
        shown = self._extent(within)
        assert shown is not None
        rows, columns = self._foreground.shape
        left, right = self._widen(shown.left - self._context, shown.right + self._context, end=columns)
        top, bottom = self._widen(shown.top - self._context, shown.bottom + self._context, end=rows)
        return _Span(left, top, right, bottom)

    def _widen(self, first: int, last: int, *, end: int) -> tuple[int, int]:
        """Round the length up, if possible within the scanned range 0 to `end`."""
        more = -(last - first) % self._multiple
        if (first <= 0) != (last >= end):
            return (first, last + more) if first <= 0 else (first - more, last)
        return first - more // 2, last + more - more // 2

    def _extent(self, span: _Span) -> _Span | None:
        """The bounding span of the foreground units inside."""
        part = self._foreground[span.top : span.bottom, span.left : span.right]
        columns, rows = np.flatnonzero(part.any(axis=0)), np.flatnonzero(part.any(axis=1))
        if len(columns) == 0:
            return None
        return _Span(
            span.left + int(columns[0]),
            span.top + int(rows[0]),
            span.left + int(columns[-1]) + 1,
            span.top + int(rows[-1]) + 1,
        )

    def _cost(self, window: _Span | None) -> float:
        if window is None:
            return 0.0
        return (window.right - window.left) * (window.bottom - window.top) + self._window_cost

    def _is_full(self, core: _Span) -> bool:
        left, top, right, bottom = core
        shown = (
            self._shown[bottom, right]
            - self._shown[top, right]
            - self._shown[bottom, left]
            + self._shown[top, left]
        )
        return bool(shown > _FULL_SHARE * (right - left) * (bottom - top))

    def _cuts(self, core: _Span) -> Iterator[tuple[_Span, _Span]]:
        """Yield ways to halve a core: in the middle, and in the middle of its widest gaps."""
        left, top, right, bottom = core
        part = self._foreground[top:bottom, left:right]
        if right - left >= 2 * self._smallest:
            for at in _cut_positions(np.asarray(part.any(axis=0), np.bool_)):
                yield core._replace(right=left + at), core._replace(left=left + at)
        if bottom - top >= 2 * self._smallest:
            for at in _cut_positions(np.asarray(part.any(axis=1), np.bool_)):
                yield core._replace(bottom=top + at), core._replace(top=top + at)


def _cut_positions(occupied: _Mask) -> set[int]:
    """Positions at which to cut a row of units: its middle, and the middles of its widest background runs."""
    ends = np.flatnonzero(np.diff(np.concatenate([[True], occupied, [True]]).astype(np.int8)))
    runs = sorted(
        ((int(last - first), int(first), int(last)) for first, last in ends.reshape(-1, 2)), reverse=True
    )
    positions = {(first + last) // 2 for _, first, last in runs[:_GAPS_TRIED]} | {len(occupied) // 2}
    return positions - {0, len(occupied)}


def _in_plan_order(detection_pass: DetectionPass, leaves: Iterable[tuple[_Span, _Span]]) -> tuple[Tile, ...]:
    """Return the tiles, largest windows first, those of one shape row by row."""
    ordered = sorted(
        leaves,
        key=lambda pair: (
            -(pair[1].right - pair[1].left) * (pair[1].bottom - pair[1].top),
            pair[1].right - pair[1].left,
            pair[0].top,
            pair[0].left,
        ),
    )
    return tuple(
        Tile(detection_pass.number, index, _rect(detection_pass, core), _rect(detection_pass, window))
        for index, (core, window) in enumerate(ordered)
    )


def _rect(detection_pass: DetectionPass, span: _Span) -> Rect:
    return Rect(*(side * detection_pass.unit_px for side in span))
