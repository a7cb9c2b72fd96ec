"""Tiles of slides with the boxes in them: what COCO and YOLO datasets are made of.

Tiles lie in a grid over the scanned area and overlap by an eighth. An object that no tile of the grid holds whole gets
a tile of its own, centred on it: every object that is no larger than a tile is whole in at least one. Tiles without any
object of the run are added, so that a detector also trains on background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.analysis.export.selection import ObjectSelection, SlideObjects, corners_of
from fossilray.core.errors import UnreadableRegion, UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.types import Image
from fossilray.slides.slide import Slide, open_slide
from fossilray.store.files.base import is_remote

OVERLAP = 1 / 8
"""Of a tile's side: at 640 px of 1 um, objects of 80 um are whole without a tile of their own."""

LEAST_VISIBLE = 0.5
"""Share of a box that must lie in a tile to be one there; less of a fossil can hardly be told from debris."""


LARGEST_PX = 8192
COARSEST_UM_PER_PX = 32.0
"""Coarser than any scan's overview needs; bounds the memory of one tile."""


@dataclass(frozen=True)
class TileOptions:
    """How the images are cut."""

    tile_px: int = 640
    um_per_px: float = 1.0
    background: float = 0.1
    """Share of the images that show no object; ultralytics advises up to a tenth."""

    def __post_init__(self) -> None:
        if not 32 <= self.tile_px <= LARGEST_PX or not 0.01 <= self.um_per_px <= COARSEST_UM_PER_PX:
            raise UsageError(
                f"tiles of {self.tile_px} px at {self.um_per_px} um per px cannot be cut; give 32 to {LARGEST_PX} px "
                f"at 0.01 to {COARSEST_UM_PER_PX:g} um per px"
            )
        if not 0 <= self.background < 1:
            raise UsageError(
                f"a share of {self.background} images without objects is impossible; give 0 to below 1, such as 0.1"
            )


@dataclass(frozen=True)
class Tile:
    """A square of a slide that becomes an image."""

    x: int
    y: int
    """Top left corner in level-0 px of OpenSlide's frame."""
    side: float
    """In level-0 px; the image shows exactly this much, at tile_px."""
    rows: NDArray[np.int64]
    """Which of the slide's objects have a box here."""
    boxes: NDArray[np.float64]
    """(k, 4) x_min, y_min, x_max, y_max of these as shares of the side, clipped to 0 … 1."""
    whole: NDArray[np.bool_]
    """(k,) whether the tile holds all of the box."""


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one slide, by row and column."""

    objects: tuple[Tile, ...]
    """Those with a box."""
    background: tuple[Tile, ...]
    """Those of the grid that no object of the run touches, in random order that is the same every time."""


@dataclass(frozen=True)
class TileImage:
    """A tile and its pixels."""

    summary: SlideSummary
    tile: Tile
    pixels: Image


@dataclass
class TileCounts:
    """What became of the tiles while they were read."""

    unreadable: int = 0
    """Images left out because the slide could not be read there."""


def plan_tiles(selection: ObjectSelection, one: SlideObjects, options: TileOptions) -> TilePlan:
    """The tiles of a slide for its chosen objects; background where the run has no object at all."""
    summary = one.summary
    side = tile_side(summary, options)
    boxes = corners_of(one.table).astype(np.float64)
    xs = _positions(summary.bounds_x, summary.bounds_width, side)
    ys = _positions(summary.bounds_y, summary.bounds_height, side)
    tiles: dict[tuple[int, int], set[int]] = {}
    across = _visible(boxes[:, 0], boxes[:, 2], xs, side)
    down = _visible(boxes[:, 1], boxes[:, 3], ys, side)
    for row, y in enumerate(ys):
        seen, columns = np.nonzero(across * down[:, row : row + 1] >= LEAST_VISIBLE)
        for index, column in zip(seen.tolist(), columns.tolist(), strict=True):
            tiles.setdefault((y, xs[column]), set()).add(index)
    cut = np.flatnonzero(~((across == 1).any(axis=1) & (down == 1).any(axis=1)))
    for (y, x), index in _own_tiles(boxes, cut, summary, side):
        shares = _visible(boxes[:, 0], boxes[:, 2], [x], side) * _visible(boxes[:, 1], boxes[:, 3], [y], side)
        seen = np.flatnonzero(shares[:, 0] >= LEAST_VISIBLE)
        tiles.setdefault((y, x), set()).update(seen.tolist(), [index])
    with_objects = tuple(_tile(x, y, side, boxes, sorted(rows)) for (y, x), rows in sorted(tiles.items()))
    return TilePlan(with_objects, _background(selection, summary, xs, ys, side) if options.background else ())


def tile_side(summary: SlideSummary, options: TileOptions) -> float:
    """Side of a tile in level-0 px of the slide."""
    return options.tile_px * options.um_per_px / summary.mpp


def require_slides(slides: Sequence[SlideSummary]) -> None:
    """Raise UsageError unless every slide with objects lies where the run found it, on a disk."""
    for summary in slides:
        if not summary.objects:
            continue
        if is_remote(summary.path):
            raise UsageError(
                f"images are cut from slides on a disk, and {summary.path} is remote; export another form"
            )
        if not Path(summary.path).exists():
            raise UsageError(
                f"images are cut from the slides, and {summary.path} is not where the run found it; mount it there, or "
                "choose others with --slide"
            )


class BackgroundQuota:
    """How many tiles without objects follow those with some, so that their share of all images is as asked."""

    def __init__(self, share: float) -> None:
        self._ratio = share / (1 - share)
        self._due = 0.0

    def take(self, with_objects: int, available: int) -> int:
        """How many of a slide's background tiles to write; what one slide lacks the next ones give."""
        self._due += with_objects * self._ratio
        taken = min(round(self._due), available)
        self._due -= taken
        return taken


def read_tiles(
    summary: SlideSummary, tiles: Sequence[Tile], options: TileOptions, counts: TileCounts
) -> Iterator[TileImage]:
    """The pixels of tiles, one at a time; one that cannot be read is counted and left out."""
    if not tiles:
        return
    with open_slide(Path(summary.path), mpp=summary.mpp) as slide:
        for tile in tiles:
            try:
                yield TileImage(summary, tile, _read(slide, tile, options))
            except UnreadableRegion:
                counts.unreadable += 1


def _positions(first: int, length: int, side: float) -> list[int]:
    """Where the tiles of one axis begin: overlapping, the last one at the end of the scanned area."""
    last = max(length - side, 0.0)
    steps = ceil(last / (side * (1 - OVERLAP)))
    return sorted({first + floor(last * step / max(steps, 1)) for step in range(steps + 1)})


def _visible(
    low: NDArray[np.float64], high: NDArray[np.float64], starts: Sequence[int], side: float
) -> NDArray[np.float64]:
    """(n, tiles) share of each interval that lies in each tile of one axis."""
    first = np.array(starts, np.float64)
    # A tile at the end of the scanned area begins on a whole pixel and may end a fraction before it.
    inside = np.minimum(high[:, None], np.ceil(first + side)) - np.maximum(low[:, None], first)
    return np.asarray(inside.clip(0) / np.maximum(high - low, 1)[:, None])


def _own_tiles(
    boxes: NDArray[np.float64], cut: NDArray[np.intp], summary: SlideSummary, side: float
) -> Iterator[tuple[tuple[int, int], int]]:
    """Tiles centred on objects that the grid cuts: (y, x) and the object, none for those that an earlier one holds."""
    made = np.zeros((0, 2))
    origin = np.array([summary.bounds_x, summary.bounds_y])
    end = origin + np.maximum([summary.bounds_width - side, summary.bounds_height - side], 0)
    for index in cut.tolist():
        low, high = boxes[index, :2], boxes[index, 2:]
        if ((low >= made) & (high <= np.ceil(made + side))).all(axis=1).any():
            continue
        corner = np.floor(((low + high - side) / 2).clip(origin, end))
        made = np.vstack([made, corner])
        yield (int(corner[1]), int(corner[0])), index


def _tile(x: int, y: int, side: float, boxes: NDArray[np.float64], rows: Sequence[int]) -> Tile:
    index = np.array(rows, np.int64)
    local = (boxes[index] - [x, y, x, y]) / side
    clipped = local.clip(0, 1)
    # Less than a pixel of a tile of 32 px: rounding, and no cut.
    return Tile(x, y, side, index, clipped, (np.abs(local - clipped) * side < 1.0).all(axis=1))


def _background(
    selection: ObjectSelection, summary: SlideSummary, xs: Sequence[int], ys: Sequence[int], side: float
) -> tuple[Tile, ...]:
    every = selection.all_boxes(summary).astype(np.float64)
    across = _visible(every[:, 0], every[:, 2], xs, side) > 0
    down = _visible(every[:, 1], every[:, 3], ys, side) > 0
    touched = (down.T.astype(np.float32) @ across.astype(np.float32)) > 0
    free = [(ys[row], xs[column]) for row, column in np.argwhere(~touched).tolist()]
    nothing = np.zeros((0, 4))
    drawn = sorted(free, key=lambda place: hashlib.sha256(f"{summary.slide_id} {place}".encode()).digest())
    return tuple(_tile(x, y, side, nothing, ()) for y, x in drawn)


def _read(slide: Slide, tile: Tile, options: TileOptions) -> Image:
    """The tile at tile_px: whole pixels of a level that cover it, then exactly the tile within them."""
    level = slide.level_for(options.um_per_px)
    downsample = slide.info.levels[level].downsample
    x_min, y_min, x_max, y_max = (
        edge / downsample for edge in (tile.x, tile.y, tile.x + tile.side, tile.y + tile.side)
    )
    left, top = floor(x_min), floor(y_min)
    window = slide.read(
        level, round(left * downsample), round(top * downsample), ceil(x_max) - left, ceil(y_max) - top
    )
    inside = (x_min - left, y_min - top, x_max - left, y_max - top)
    size = (options.tile_px, options.tile_px)
    return np.asarray(Pillow.fromarray(window).resize(size, Pillow.Resampling.BILINEAR, box=inside))
