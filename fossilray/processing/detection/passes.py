"""Detection passes over the scanned area, each a lattice of pixels at one scale, and tiles on the lattice.

The lattice of a pass consists of pixels at its scale (detection px) and does not depend on the tiles, so that another
tiling shows the detector the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig, PassConfig, TilingConfig
from fossilray.core.types import Boxes, Image, Rect, SlideInfo
from fossilray.slides.slide import Slide, level_for

# Lattice origins, cores and windows are multiples of this many detection px (and of the detector's stride).
# Each unit is also a whole number of level px, for which the scale differs by up to 1/64 (more where the slide is
# coarser than the scale and pixels are enlarged).
_UNIT_PX = 32
# The paper's single pass has no stated object size; its halo shows objects of this size whole.
_PAPER_LARGEST_UM = 250.0
# Detection also depends on the surroundings of an object, so a window shows this much more (detection px); with half
# of it the bundled detector found 99.45 % of the same objects for tiles of 1024 and 2048 px on a crowded slide.
_CONTEXT_PX = 64
# Larger windows spend less on halos. Above this size one core's time per pixel rises, because memory for activations
# is too large to be reused (measured, bfloat16: 15 MP/s at 832 px, 17 at 1344 and 1856, 13 at 2368; at 1856 the
# detector takes 0.4 GB beside its weights, in float32 0.7).
LARGEST_WINDOW_PX = 1856
_PAPER_TILE_PX = 2048


@dataclass(frozen=True, slots=True)
class Tile:
    """A core and the window around it; rectangles in detection px of the pass's lattice, multiples of its unit.

    core: the tile owns the objects whose centre is in it. window: the area that the detector is shown.
    """

    pass_number: int
    index: int
    core: Rect
    window: Rect


@dataclass(frozen=True)
class DetectionPass:
    """One scale of detection and its lattice, which begins at the scanned area's top left corner.

    scale: level-0 px per detection px. origin_level_px: the lattice's origin in px of `level`.
    core_px: the longest side of a core. columns, rows: units that meet the scanned area.
    reach_px: half the largest object. context_px: what a window shows around objects.
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
    reach_px: int
    context_px: int
    columns: int
    rows: int

    @property
    def scale(self) -> float:
        return self.downsample * self.unit_level_px / self.unit_px

    @property
    def halo_px(self) -> int:
        return self.reach_px + self.context_px

    def unit_areas_mm2(self) -> NDArray[np.float64]:
        """Scanned area of each unit, (rows, columns); the last units reach beyond the scanned area."""
        bounds, side = self.bounds, self.unit_px * self.scale
        left, top = (origin * self.downsample for origin in self.origin_level_px)
        widths, heights = (
            np.diff(np.clip(start + np.arange(count + 1) * side, first, last))
            * self.um_per_px
            / self.scale
            / 1000
            for start, count, first, last in (
                (left, self.columns, bounds.x_min, bounds.x_max),
                (top, self.rows, bounds.y_min, bounds.y_max),
            )
        )
        return np.outer(heights, widths)

    def units_in(self, rect: Rect) -> tuple[slice, slice]:
        """Rows and columns of the units in a rectangle of the lattice."""
        rows = slice(max(0, rect.y_min) // self.unit_px, max(0, rect.y_max) // self.unit_px)
        return rows, slice(max(0, rect.x_min) // self.unit_px, max(0, rect.x_max) // self.unit_px)

    def window_corner(self, tile: Tile) -> tuple[int, int]:
        """Level-0 px of the window's top left corner, as it is read."""
        x, y = (
            round((origin + at // self.unit_px * self.unit_level_px) * self.downsample)
            for origin, at in zip(self.origin_level_px, (tile.window.x_min, tile.window.y_min), strict=True)
        )
        return x, y

    def corners(self, rect: Rect) -> tuple[float, float, float, float]:
        """Convert a rectangle of the lattice to level-0 px, x_min y_min x_max y_max."""
        left, top = (origin * self.downsample for origin in self.origin_level_px)
        return (
            left + rect.x_min * self.scale,
            top + rect.y_min * self.scale,
            left + rect.x_max * self.scale,
            top + rect.y_max * self.scale,
        )


def plan_passes(
    info: SlideInfo,
    tiling: TilingConfig,
    detector: DetectorConfig,
    stride_px: int,
    *,
    passes: Sequence[PassConfig] | None = None,
) -> tuple[DetectionPass, ...]:
    """Plan the passes over a slide, fine to coarse.

    The finest pass's largest core is tile_px of level 0, and coarser passes keep its number of detection px.
    passes: replaces those of the configuration. stride_px: stride of the detector, in detection px.
    """
    chosen = tuple(passes or detector.passes)
    tile_px = tiling.tile_px
    if tile_px is None and (detector.seen_at_px is not None or detector.is_exported):
        tile_px = _PAPER_TILE_PX
    if detector.seen_at_px is not None and tile_px is not None:
        um_per_px = tile_px * info.mpp / detector.seen_at_px
        chosen = (PassConfig(um_per_px=um_per_px, largest_um=_PAPER_LARGEST_UM),)
    unit_px = stride_px * math.ceil(_UNIT_PX / stride_px)
    core_px = None
    if tile_px is not None:
        core_px = max(1, round(tile_px * info.mpp / chosen[0].um_per_px / unit_px)) * unit_px
    return tuple(
        _plan_pass(info, number, wanted, unit_px=unit_px, core_px=core_px)
        for number, wanted in enumerate(chosen)
    )


def read_tile(slide: Slide, detection_pass: DetectionPass, tile: Tile) -> Image:
    """Read the tile's window at detection scale, (height, width, 3); background beyond the canvas.

    Raises:
        UnreadableRegion: part of it cannot be decoded.
    """
    pixels = slide.read(
        detection_pass.level, *detection_pass.window_corner(tile), *_read_size(detection_pass, tile)
    )
    return _at_detection_scale(pixels, tile)


def read_tile_with_coverage(
    slide: Slide, detection_pass: DetectionPass, tile: Tile
) -> tuple[Image, NDArray[np.float32] | None]:
    """As `read_tile`, with the share (0 to 1) of each unit of the window that was scanned; None if all of it was.

    Raises:
        UnreadableRegion: part of it cannot be decoded.
    """
    pixels, alpha = slide.read_with_alpha(
        detection_pass.level, *detection_pass.window_corner(tile), *_read_size(detection_pass, tile)
    )
    coverage = None
    if any(alpha.strides) and alpha.min() < 255:
        units = tile.window.width // detection_pass.unit_px, tile.window.height // detection_pass.unit_px
        mean = cv2.resize(alpha, units, interpolation=cv2.INTER_AREA)
        coverage = np.asarray(mean, np.float32) / np.float32(255)
    return _at_detection_scale(pixels, tile), coverage


def _read_size(detection_pass: DetectionPass, tile: Tile) -> tuple[int, int]:
    width, height = tile.window.width, tile.window.height
    return (
        width // detection_pass.unit_px * detection_pass.unit_level_px,
        height // detection_pass.unit_px * detection_pass.unit_level_px,
    )


def _at_detection_scale(pixels: Image, tile: Tile) -> Image:
    width, height = tile.window.width, tile.window.height
    if pixels.shape[:2] == (height, width):
        return pixels
    interpolation = cv2.INTER_AREA if pixels.shape[1] > width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=interpolation), np.uint8)


def to_level0(detection_pass: DetectionPass, tile: Tile, boxes: Boxes) -> Boxes:
    """Convert boxes from px of the tile's window to level-0 px."""
    return Boxes(
        boxes.xyxy * detection_pass.scale + np.tile(detection_pass.window_corner(tile), 2), boxes.score
    )


def _plan_pass(
    info: SlideInfo, number: int, wanted: PassConfig, *, unit_px: int, core_px: int | None
) -> DetectionPass:
    level = level_for(info, wanted.um_per_px)
    downsample = info.levels[level].downsample
    unit_level_px = max(1, round(unit_px * wanted.um_per_px / (downsample * info.mpp)))
    scale = downsample * unit_level_px / unit_px
    um_per_px = scale * info.mpp
    bounds = info.bounds
    origin = math.floor(bounds.x_min / downsample), math.floor(bounds.y_min / downsample)
    columns, rows = (
        max(0, math.ceil((end - start * downsample) / (unit_px * scale) - 1e-9)) if end > begin else 0
        for begin, start, end in (
            (bounds.x_min, origin[0], bounds.x_max),
            (bounds.y_min, origin[1], bounds.y_max),
        )
    )
    reach_px, context_px = (
        math.ceil(side / unit_px) * unit_px for side in (wanted.largest_um / 2 / um_per_px, _CONTEXT_PX)
    )
    if core_px is None:
        # A pass of very large objects needs windows above the limit; their halo takes three quarters at most.
        halo_px = reach_px + context_px
        core_px = max(LARGEST_WINDOW_PX - 2 * halo_px, halo_px) // unit_px * unit_px
    return DetectionPass(
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
        reach_px=reach_px,
        context_px=context_px,
        columns=columns,
        rows=rows,
    )
