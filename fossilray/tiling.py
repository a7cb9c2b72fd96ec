"""Where the detector looks: sweeps of tiles over the scanned area, and which tiles are blank.

A sweep sees the slide at one scale. Its lattice is made of pixels at that scale (detection px) and does not
depend on the tile size, so that other tiles show the detector the same pixels elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.config import DetectorConfig, PassConfig, TilingConfig
from fossilray.records import Boxes, Image, Rect, SlideInfo
from fossilray.slide import Overview, Slide, level_for

# Lattice origins, cores and halos are multiples of this many detection px (and of the detector's stride).
# It also makes each unit a whole number of level px, at the price of a scale that is 1/64 off at most (more
# where the slide is coarser than the scale and pixels are enlarged).
_UNIT_PX = 32
# The paper's single pass has no stated size of object; its halo sees ones of this size whole.
_SEEN_AT_LARGEST_UM = 250.0
# An object is also judged by what lies around it, so a halo shows so much more (detection px); with half of it
# the bundled detector found 99.45 % of the same objects for tiles of 1024 and 2048 px on a crowded slide.
_CONTEXT_PX = 64
# The background may drift over a millimetre, and by so much; more is an object.
_LOCAL_BACKGROUND_UM = 1000.0
_SHADING_GREY_LEVELS = 24.0
_BACKGROUND_PERCENTILE = 75.0
# Transmitted light leaves the clear field at least mid-grey; a darker overview shows no clear field.
_DARKEST_BACKGROUND = 80.0
# Reading more than this to tell blank tiles costs more than it saves.
_LARGEST_OVERVIEW_PX = 200_000_000


@dataclass(frozen=True, slots=True)
class Tile:
    """One place to look: the core's top left corner in the sweep's lattice, in detection px."""

    sweep: int
    index: int
    x_px: int
    y_px: int


@dataclass(frozen=True)
class Sweep:
    """One scale of detection and its tiles, row by row; tiles are made when asked for.

    scale: level-0 px per detection px. read_px: side of a window in px of `level`.
    origin_level_px: the lattice's origin in px of `level`. All windows have the same size.
    """

    number: int
    um_per_px: float
    smallest_um: float
    largest_um: float
    bounds: Rect
    level: int
    downsample: float
    origin_level_px: tuple[int, int]
    unit_px: int
    unit_level_px: int
    core_px: int
    halo_px: int
    columns: int
    rows: int

    def __len__(self) -> int:
        return self.columns * self.rows

    def __iter__(self) -> Iterator[Tile]:
        return (self.tile(index) for index in range(len(self)))

    @property
    def scale(self) -> float:
        return self.downsample * self.unit_level_px / self.unit_px

    @property
    def window_px(self) -> int:
        return self.core_px + 2 * self.halo_px

    @property
    def read_px(self) -> int:
        return self.window_px // self.unit_px * self.unit_level_px

    def tile(self, index: int) -> Tile:
        """The tile of that index, 0 <= index < len(sweep)."""
        row, column = divmod(index, self.columns)
        return Tile(self.number, index, column * self.core_px, row * self.core_px)

    def window_corner(self, tile: Tile) -> tuple[int, int]:
        """Level-0 px of the window's top left corner, as it is read."""
        x, y = (
            round((origin + (at - self.halo_px) // self.unit_px * self.unit_level_px) * self.downsample)
            for origin, at in zip(self.origin_level_px, (tile.x_px, tile.y_px), strict=True)
        )
        return x, y

    def core_corners(self, tile: Tile) -> tuple[float, float, float, float]:
        """The core in level-0 px, x_min y_min x_max y_max; cores of a sweep meet without gap or overlap."""
        x, y = (
            origin * self.downsample + at * self.scale
            for origin, at in zip(self.origin_level_px, (tile.x_px, tile.y_px), strict=True)
        )
        side = self.core_px * self.scale
        return x, y, x + side, y + side


def plan_sweeps(
    info: SlideInfo,
    tiling: TilingConfig,
    detector: DetectorConfig,
    stride_px: int,
    *,
    passes: Sequence[PassConfig] | None = None,
) -> tuple[Sweep, ...]:
    """The sweeps over a slide, fine to coarse; cores cover the scanned area once, halos reach past it.

    The finest sweep's core is tile_px of level 0; coarser sweeps keep its number of detection px.
    passes: replaces those of the configuration. stride_px: of the detector, in detection px.
    """
    chosen = tuple(passes or detector.passes)
    if detector.seen_at_px is not None:
        um_per_px = tiling.tile_px * info.mpp / detector.seen_at_px
        chosen = (PassConfig(um_per_px=um_per_px, largest_um=_SEEN_AT_LARGEST_UM),)
    unit_px = stride_px * math.ceil(_UNIT_PX / stride_px)
    core_units = max(1, round(tiling.tile_px * info.mpp / chosen[0].um_per_px / unit_px))
    return tuple(
        _plan_sweep(info, number, wanted, unit_px=unit_px, core_px=core_units * unit_px)
        for number, wanted in enumerate(chosen)
    )


def read_tile(slide: Slide, sweep: Sweep, tile: Tile) -> Image:
    """The tile's window at detection scale, (window_px, window_px, 3); background beyond the canvas.

    Raises:
        UnreadableRegion: part of it cannot be decoded.
    """
    pixels = slide.read(sweep.level, *sweep.window_corner(tile), sweep.read_px, sweep.read_px)
    if sweep.read_px == sweep.window_px:
        return pixels
    how = cv2.INTER_AREA if sweep.read_px > sweep.window_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (sweep.window_px, sweep.window_px), interpolation=how), np.uint8)


def to_level0(sweep: Sweep, tile: Tile, boxes: Boxes) -> Boxes:
    """Boxes in px of the tile's window, as boxes in level-0 px."""
    return Boxes(boxes.xyxy * sweep.scale + np.tile(sweep.window_corner(tile), 2), boxes.score)


def find_blank(slide: Slide, tiling: TilingConfig, sweeps: Sequence[Sweep]) -> tuple[NDArray[np.bool_], ...]:
    """One mask per sweep, True where a tile's core shows nothing but background (or was not scanned).

    Told from an overview; what it cannot show (unreadable, too costly to read) is not blank.
    """
    nothing_blank = tuple(np.zeros(len(sweep), np.bool_) for sweep in sweeps)
    info = slide.info
    level = info.levels[slide.level_for(tiling.blank_um_per_px)]
    overview_px = info.bounds.width * info.bounds.height / level.downsample**2
    if tiling.blank_contrast == 0 or overview_px > _LARGEST_OVERVIEW_PX:
        return nothing_blank
    overview = slide.overview(tiling.blank_um_per_px)
    shown = _shows_something(
        overview,
        um_per_px=overview.scale * info.mpp,
        contrast=tiling.blank_contrast,
        fill=info.background_rgb,
    )
    counts = np.asarray(cv2.integral(shown.astype(np.uint8)), np.int32)
    return tuple(_blank_tiles(sweep, overview, counts) for sweep in sweeps)


def _plan_sweep(info: SlideInfo, number: int, wanted: PassConfig, *, unit_px: int, core_px: int) -> Sweep:
    level = level_for(info, wanted.um_per_px)
    downsample = info.levels[level].downsample
    unit_level_px = max(1, round(unit_px * wanted.um_per_px / (downsample * info.mpp)))
    scale = downsample * unit_level_px / unit_px
    um_per_px = scale * info.mpp
    bounds = info.bounds
    origin = math.floor(bounds.x_min / downsample), math.floor(bounds.y_min / downsample)
    columns, rows = (
        max(0, math.ceil((end - start * downsample) / (core_px * scale) - 1e-9)) if end > begin else 0
        for begin, start, end in (
            (bounds.x_min, origin[0], bounds.x_max),
            (bounds.y_min, origin[1], bounds.y_max),
        )
    )
    return Sweep(
        number=number,
        um_per_px=um_per_px,
        smallest_um=wanted.smallest_um,
        largest_um=wanted.largest_um,
        bounds=bounds,
        level=level,
        downsample=downsample,
        origin_level_px=origin,
        unit_px=unit_px,
        unit_level_px=unit_level_px,
        core_px=core_px,
        halo_px=math.ceil((wanted.largest_um / 2 / um_per_px + _CONTEXT_PX) / unit_px) * unit_px,
        columns=columns,
        rows=rows,
    )


def _shows_something(
    overview: Overview, *, um_per_px: float, contrast: float, fill: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """Overview pixels that differ from the background near them, or that nobody could read.

    A small object darkens one pixel, or four by a quarter each; hence the second look at means of 2 x 2,
    where noise is half as strong.
    """
    rgb = overview.rgb.astype(np.float32)
    share = overview.coverage.astype(np.float32)[..., None] / 255
    scanned = overview.readable & (overview.coverage > 64)
    if not scanned.any():
        return ~overview.readable
    # At the rim of the scan the fill colour is mixed in; take it out again.
    rgb = np.where(
        scanned[..., None], (rgb - (1 - share) * np.asarray(fill, np.float32)) / np.maximum(share, 0.25), 0
    )
    usual = np.percentile(rgb[scanned], _BACKGROUND_PERCENTILE, axis=0).astype(np.float32)
    if usual.max() < _DARKEST_BACKGROUND:
        return scanned | ~overview.readable
    rgb = np.where(scanned[..., None], rgb, usual)
    local = _local_median(np.clip(np.round(rgb), 0, 255).astype(np.uint8), um_per_px=um_per_px)
    difference = rgb - np.clip(local, usual - _SHADING_GREY_LEVELS, usual + _SHADING_GREY_LEVELS)
    differs = np.abs(difference).max(axis=-1) > contrast
    differs |= np.abs(cv2.blur(difference, (2, 2))).max(axis=-1) > contrast / 2
    return np.asarray((differs & scanned) | ~overview.readable, np.bool_)


def _local_median(rgb: NDArray[np.uint8], *, um_per_px: float) -> NDArray[np.float32]:
    """The median of a wide neighbourhood of every pixel; every fourth pixel is enough to know it."""
    height, width = rgb.shape[:2]
    few = np.ascontiguousarray(rgb[::4, ::4])
    side = int(np.clip(round(_LOCAL_BACKGROUND_UM / um_per_px / 4) | 1, 3, 255))
    smooth = cv2.medianBlur(few, side).astype(np.float32)
    return np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _blank_tiles(sweep: Sweep, overview: Overview, counts: NDArray[np.int32]) -> NDArray[np.bool_]:
    height, width = overview.coverage.shape
    blank = np.zeros(len(sweep), np.bool_)
    for tile in sweep:
        x_min, y_min, x_max, y_max = sweep.core_corners(tile)
        # One pixel more on each side: an object at the core's border may lie in the pixel beyond it.
        left, right = (
            int(np.clip(edge, 0, width))
            for edge in (
                math.floor((x_min - overview.rect.x_min) / overview.scale) - 1,
                math.ceil((x_max - overview.rect.x_min) / overview.scale) + 1,
            )
        )
        top, bottom = (
            int(np.clip(edge, 0, height))
            for edge in (
                math.floor((y_min - overview.rect.y_min) / overview.scale) - 1,
                math.ceil((y_max - overview.rect.y_min) / overview.scale) + 1,
            )
        )
        something = counts[bottom, right] - counts[top, right] - counts[bottom, left] + counts[top, left]
        blank[tile.index] = something == 0
    return blank
