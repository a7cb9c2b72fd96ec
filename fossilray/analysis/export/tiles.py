"""Tiles of slides with bounding boxes, the images of COCO and YOLO datasets.

Tiles form a grid over the scanned area and overlap by an eighth. An object that is whole in no tile of the grid gets a
tile of its own, centred on it, so that every object no larger than a tile is whole in at least one. Tiles without
objects are added, so that a detector is also trained on background.
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

from fossilray.analysis.export.selection import ObjectSelection, SelectedObjects, corners_of
from fossilray.core.errors import UnreadableRegion, UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.types import Image
from fossilray.slides.slide import Slide, open_slide
from fossilray.store.files.base import is_remote

OVERLAP = 1 / 8
"""Share of a tile's side: at 640 px of 1 µm, objects of 80 µm are whole in the grid."""

MIN_VISIBLE = 0.5
"""Share of a box that must be inside a tile to be annotated there; less of a fossil looks like debris."""

MAX_TILE_PX = 8192
MAX_UM_PER_PX = 32.0
"""Bounds the memory of one tile; no overview of a scan is coarser."""


@dataclass(frozen=True)
class TileOptions:
    """Size and scale of the images, and the share without objects."""

    tile_px: int = 640
    um_per_px: float = 1.0
    background: float = 0.1
    """Share of images without objects; ultralytics recommends up to a tenth."""

    def __post_init__(self) -> None:
        if not 32 <= self.tile_px <= MAX_TILE_PX or not 0.01 <= self.um_per_px <= MAX_UM_PER_PX:
            raise UsageError(
                f"tiles of {self.tile_px} px at {self.um_per_px} um per px cannot be cut; give 32 to {MAX_TILE_PX} px "
                f"at 0.01 to {MAX_UM_PER_PX:g} um per px"
            )
        if not 0 <= self.background < 1:
            raise UsageError(
                f"the share of images without objects cannot be {self.background}; give 0 to below 1, such as 0.1"
            )


@dataclass(frozen=True)
class ExportTile:
    """A square of a slide that becomes an image."""

    x: int
    y: int
    """Top left corner in level-0 px of OpenSlide's frame."""
    side: float
    """Side in level-0 px, which the image shows at tile_px."""
    rows: NDArray[np.int64]
    """(k,) rows of the slide's objects that have a box in the tile."""
    boxes: NDArray[np.float64]
    """(k, 4) their x_min, y_min, x_max, y_max as shares of the side, clipped to 0..1."""
    whole: NDArray[np.bool_]
    """(k,) True if the whole box is inside the tile."""


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one slide, by row and column."""

    objects: tuple[ExportTile, ...]
    """Tiles with a box."""
    background: tuple[ExportTile, ...]
    """Tiles of the grid that no object of the run touches, in a random order that is equal for equal input."""


@dataclass(frozen=True)
class TileImage:
    """A tile and its pixels."""

    summary: SlideSummary
    tile: ExportTile
    pixels: Image


@dataclass
class TileCounts:
    """Counts of a dataset of tiles, accumulated while it is written."""

    images: int = 0
    background: int = 0
    """Images without an object."""
    boxes: int = 0
    objects: int = 0
    """Objects with a box. An object has several boxes where images overlap."""
    lost: int = 0
    """Objects in no image, because the slide could not be read there."""
    cut: int = 0
    """Objects larger than an image, whose boxes end at its edge."""
    clipped: int = 0
    """Objects whose box reached beyond the scanned area."""
    unreadable: int = 0
    """Images left out because the slide could not be read there."""


def plan_tiles(selection: ObjectSelection, objects: SelectedObjects, options: TileOptions) -> TilePlan:
    """Plan the tiles of a slide for its selected objects, and background tiles without any object of the run."""
    summary = objects.summary
    side = tile_side(summary, options)
    boxes = corners_of(objects.table).astype(np.float64)
    xs = _positions(summary.bounds_x, summary.bounds_width, side)
    ys = _positions(summary.bounds_y, summary.bounds_height, side)
    tiles: dict[tuple[int, int], set[int]] = {}
    across = _visible(boxes[:, 0], boxes[:, 2], xs, side)
    down = _visible(boxes[:, 1], boxes[:, 3], ys, side)
    for row, y in enumerate(ys):
        visible, columns = np.nonzero(across * down[:, row : row + 1] >= MIN_VISIBLE)
        for index, column in zip(visible.tolist(), columns.tolist(), strict=True):
            tiles.setdefault((y, xs[column]), set()).add(index)
    cut = np.flatnonzero(~((across == 1).any(axis=1) & (down == 1).any(axis=1)))
    for (y, x), index in _centred_tiles(boxes, cut, summary, side):
        shares = _visible(boxes[:, 0], boxes[:, 2], [x], side) * _visible(boxes[:, 1], boxes[:, 3], [y], side)
        visible = np.flatnonzero(shares[:, 0] >= MIN_VISIBLE)
        tiles.setdefault((y, x), set()).update(visible.tolist(), [index])
    with_objects = tuple(_tile(x, y, side, boxes, sorted(rows)) for (y, x), rows in sorted(tiles.items()))
    return TilePlan(with_objects, _background(selection, summary, xs, ys, side) if options.background else ())


def tile_side(summary: SlideSummary, options: TileOptions) -> float:
    """Return the side of a tile in level-0 px of the slide."""
    return options.tile_px * options.um_per_px / summary.mpp


def require_slides(slides: Sequence[SlideSummary]) -> None:
    """Check that every slide with objects is on a disk, at the path in the run.

    Raises:
        UsageError: a slide is remote or missing.
    """
    for summary in slides:
        if not summary.objects:
            continue
        if is_remote(summary.path):
            raise UsageError(
                f"images are cut from slides on a disk, and {summary.path} is remote; choose another --format"
            )
        if not Path(summary.path).exists():
            raise UsageError(
                f"images are cut from the slides, and {summary.path} is missing; mount it there, or choose another "
                "slide with --slide"
            )


class BackgroundQuota:
    """Number of background tiles to write, slide by slide, for a given share of all images."""

    def __init__(self, share: float) -> None:
        self._ratio = share / (1 - share)
        self._due = 0.0

    def take(self, with_objects: int, available: int) -> int:
        """Return the number of a slide's background tiles to write. A deficit is carried over to the next slides."""
        self._due += with_objects * self._ratio
        taken = min(round(self._due), available)
        self._due -= taken
        return taken


def read_tiles(
    summary: SlideSummary, tiles: Sequence[ExportTile], options: TileOptions, counts: TileCounts
) -> Iterator[TileImage]:
    """Read tiles one at a time. A tile that cannot be read is counted in `counts.unreadable` and left out."""
    if not tiles:
        return
    with open_slide(Path(summary.path), mpp_override=summary.mpp) as slide:
        for tile in tiles:
            try:
                yield TileImage(summary, tile, _read(slide, tile, options))
            except UnreadableRegion:
                counts.unreadable += 1


def primary_tiles(images: Sequence[tuple[int, ExportTile]], count: int) -> dict[int, int]:
    """For each of `count` rows that is in an image, return the number of the image that shows most of its box."""
    shown, best = np.zeros(count), np.zeros(count, np.int64)
    for number, tile in images:
        area = (tile.boxes[:, 2:] - tile.boxes[:, :2]).prod(axis=1) * tile.side**2
        is_better = area > shown[tile.rows] + 0.5
        shown[tile.rows[is_better]], best[tile.rows[is_better]] = area[is_better], number
    return {row: number for row, number in enumerate(best.tolist()) if number}


def _positions(first: int, length: int, side: float) -> list[int]:
    """Return the starts of the tiles of one axis, which overlap; the last tile ends with the scanned area."""
    last = max(length - side, 0.0)
    steps = ceil(last / (side * (1 - OVERLAP)))
    return sorted({first + floor(last * step / max(steps, 1)) for step in range(steps + 1)})


def _visible(
    low: NDArray[np.float64], high: NDArray[np.float64], starts: Sequence[int], side: float
) -> NDArray[np.float64]:
    """Return the share (n, tiles) of each interval that is inside each tile of one axis."""
    first = np.array(starts, np.float64)
    # The last tile starts on a whole pixel and so may end a fraction of a pixel before the scanned area.
    inside = np.minimum(high[:, None], np.ceil(first + side)) - np.maximum(low[:, None], first)
    return np.asarray(inside.clip(0) / np.maximum(high - low, 1)[:, None])


def _centred_tiles(
    boxes: NDArray[np.float64], cut: NDArray[np.intp], summary: SlideSummary, side: float
) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield (y, x) of tiles centred on objects that the grid cuts, and the object, unless an earlier tile holds it."""
    corners = np.zeros((0, 2))
    origin = np.array([summary.bounds_x, summary.bounds_y])
    end = origin + np.maximum([summary.bounds_width - side, summary.bounds_height - side], 0)
    for index in cut.tolist():
        low, high = boxes[index, :2], boxes[index, 2:]
        if ((low >= corners) & (high <= np.ceil(corners + side))).all(axis=1).any():
            continue
        corner = np.floor(((low + high - side) / 2).clip(origin, end))
        corners = np.vstack([corners, corner])
        yield (int(corner[1]), int(corner[0])), index


def _tile(x: int, y: int, side: float, boxes: NDArray[np.float64], rows: Sequence[int]) -> ExportTile:
    index = np.array(rows, np.int64)
    local = (boxes[index] - [x, y, x, y]) / side
    clipped = local.clip(0, 1)
    # A difference of less than a level-0 pixel is rounding.
    return ExportTile(x, y, side, index, clipped, (np.abs(local - clipped) * side < 1.0).all(axis=1))


def _background(
    selection: ObjectSelection, summary: SlideSummary, xs: Sequence[int], ys: Sequence[int], side: float
) -> tuple[ExportTile, ...]:
    boxes = selection.all_boxes(summary).astype(np.float64)
    across = _visible(boxes[:, 0], boxes[:, 2], xs, side) > 0
    down = _visible(boxes[:, 1], boxes[:, 3], ys, side) > 0
    touched = (down.T.astype(np.float32) @ across.astype(np.float32)) > 0
    free = [(ys[row], xs[column]) for row, column in np.argwhere(~touched).tolist()]
    no_boxes = np.zeros((0, 4))
    shuffled = sorted(
        free, key=lambda corner: hashlib.sha256(f"{summary.slide_id} {corner}".encode()).digest()
    )
    return tuple(_tile(x, y, side, no_boxes, ()) for y, x in shuffled)


def _read(slide: Slide, tile: ExportTile, options: TileOptions) -> Image:
    """Read a tile at tile_px: whole pixels of a level that cover the tile, resampled to exactly the tile."""
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
