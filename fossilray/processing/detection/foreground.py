"""Foreground of a slide: overview pixels that differ from the background, and the lattice units that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import TilingConfig
from fossilray.core.types import Rect
from fossilray.processing.detection.passes import DetectionPass
from fossilray.slides.direct.listed_tiles import ListedTiles
from fossilray.slides.overview import SCANNED_COVERAGE, Overview
from fossilray.slides.slide import Slide

_Mask = NDArray[np.bool_]

# The background may drift by this much over a millimetre; a larger difference is an object.
_LOCAL_BACKGROUND_UM = 1000.0
_SHADING_GREY_LEVELS = 24.0
# Dust out of focus shades a tenth of a millimetre a little; faint objects have to differ from this neighbourhood.
_NEAR_BACKGROUND_UM = 120.0
_BACKGROUND_PERCENTILE = 75.0
# In transmitted light the clear field is at least mid-grey; a darker overview shows no clear field.
_DARKEST_BACKGROUND = 80.0
# Reading a larger overview costs more than it saves.
_MAX_OVERVIEW_PX = 200_000_000
# Parts of one pale object may show as specks; specks this close (um) count as one.
_SPECKS_APART_UM = 32.0
# An object of a coarse pass shows in the overview at least this share of its length.
_SHOWN_SHARE = 0.5
# Without an overview the index is sampled at this many points along each side of a unit.
_UNIT_SAMPLES = 4


@dataclass(frozen=True)
class Foreground:
    """Overview pixels (h, w) that differ from the background, or that could not be read.

    scale: level-0 px per overview pixel; rect: area of the overview in level-0 px. expected: (h, w) uint8, the
    coverage that every level should have.
    """

    mask: _Mask
    scale: float
    rect: Rect
    um_per_px: float
    expected: NDArray[np.uint8]

    @property
    def is_void(self) -> bool:
        """Whether the overview could be read and shows no scanned area, and the slide's index lists none."""
        return not (self.mask.any() or self.expected.any())


def find_foreground(slide: Slide, tiling: TilingConfig) -> Foreground | None:
    """Find the foreground in an overview; None where the whole scanned area counts as foreground."""
    info = slide.info
    level = info.levels[slide.level_for(tiling.blank_um_per_px)]
    overview_px = info.bounds.width * info.bounds.height / level.downsample**2
    if tiling.blank_contrast == 0 or overview_px > _MAX_OVERVIEW_PX:
        return None
    overview = slide.overview(tiling.blank_um_per_px)
    um_per_px = overview.scale * info.mpp
    mask = _shows_something(
        overview, um_per_px=um_per_px, contrast=tiling.blank_contrast, fill=slide.background_rgb
    )
    expected = overview.coverage if overview.expected is None else overview.expected
    return Foreground(mask, overview.scale, overview.rect, um_per_px, expected)


def foreground_units(detection_pass: DetectionPass, foreground: Foreground | None) -> _Mask:
    """Return the units (rows, columns) of the pass's lattice that may hold an object of this pass.

    Units with only small objects, which a finer pass finds, are left out.
    """
    if foreground is None:
        return np.ones((detection_pass.rows, detection_pass.columns), np.bool_)
    mask = foreground.mask
    if detection_pass.smallest_um > 0:
        mask = _large_parts(
            mask, longest_um=_SHOWN_SHARE * detection_pass.smallest_um, um_per_px=foreground.um_per_px
        )
    counts = np.asarray(cv2.integral(mask.astype(np.uint8)), np.int64)
    height, width = mask.shape
    left, right = _edges(detection_pass, foreground, axis=0, count=detection_pass.columns, size=width)
    top, bottom = _edges(detection_pass, foreground, axis=1, count=detection_pass.rows, size=height)
    shown = (
        counts[np.ix_(bottom, right)]
        - counts[np.ix_(top, right)]
        - counts[np.ix_(bottom, left)]
        + counts[np.ix_(top, left)]
    )
    return np.asarray(shown > 0, np.bool_)


def units_expected(
    detection_pass: DetectionPass, foreground: Foreground | None, listed: ListedTiles | None
) -> NDArray[np.float32] | None:
    """Return the share (0 to 1) of each unit (rows, columns) that the pass's level should show as scanned.

    Without an overview it comes from the slide's index; None where that is unknown, too.
    """
    left, top = (origin * detection_pass.downsample for origin in detection_pass.origin_level_px)
    side = detection_pass.unit_px * detection_pass.scale
    if foreground is None:
        if listed is None:
            return None
        fine = listed.cover(
            (left, top),
            side / _UNIT_SAMPLES,
            (_UNIT_SAMPLES * detection_pass.rows, _UNIT_SAMPLES * detection_pass.columns),
            level=detection_pass.level,
        )
        parts = fine.reshape(detection_pass.rows, _UNIT_SAMPLES, detection_pass.columns, _UNIT_SAMPLES)
        return np.asarray(parts.mean(axis=(1, 3)), np.float32)
    sums = cv2.integral(foreground.expected)
    height, width = foreground.expected.shape
    columns, rows = (
        np.clip(np.rint((start + np.arange(count + 1) * side - first) / foreground.scale), 0, size).astype(
            np.intp
        )
        for start, count, first, size in (
            (left, detection_pass.columns, foreground.rect.x_min, width),
            (top, detection_pass.rows, foreground.rect.y_min, height),
        )
    )
    shown = np.diff(np.diff(sums[np.ix_(rows, columns)], axis=0), axis=1)
    return np.asarray(shown / (255 * max(side / foreground.scale, 1.0) ** 2), np.float32)


def units_overlapping(detection_pass: DetectionPass, areas: Sequence[Rect]) -> _Mask:
    """Return the units (rows, columns) of the pass's lattice that overlap any of these rectangles (level-0 px)."""
    left, top = (origin * detection_pass.downsample for origin in detection_pass.origin_level_px)
    side = detection_pass.unit_px * detection_pass.scale
    overlaps = np.zeros((detection_pass.rows, detection_pass.columns), np.bool_)
    for area in areas:
        rows, columns = (
            slice(max(0, math.floor((first - start) / side)), max(0, math.ceil((last - start) / side)))
            for first, last, start in ((area.y_min, area.y_max, top), (area.x_min, area.x_max, left))
        )
        overlaps[rows, columns] = True
    return overlaps


def _shows_something(
    overview: Overview, *, um_per_px: float, contrast: float, fill: tuple[int, int, int]
) -> _Mask:
    """Return overview pixels that differ from the background, or that could not be read.

    A small object darkens one pixel, or four by a quarter each; hence the second comparison of means of 2 x 2 pixels,
    where noise is half as strong.
    """
    rgb = overview.rgb
    scanned = overview.readable & (overview.coverage > SCANNED_COVERAGE)
    if not scanned.any():
        return ~overview.readable
    edge = scanned & (overview.coverage < 255)
    if edge.any():
        # At the edge of the scan the fill colour is mixed in; subtract it.
        share = overview.coverage[edge].astype(np.float32)[:, None] / 255
        rgb = rgb.copy()
        rgb[edge] = np.clip((rgb[edge] - (1 - share) * np.asarray(fill, np.float32)) / share, 0, 255)
    typical = np.array([_percentile(rgb[..., channel][scanned]) for channel in range(3)], np.float32)
    if typical.max() < _DARKEST_BACKGROUND:
        return scanned | ~overview.readable
    if not scanned.all():
        rgb = np.where(scanned[..., None], rgb, np.round(typical).astype(np.uint8))
    far = np.clip(
        _local_median(rgb, _LOCAL_BACKGROUND_UM / um_per_px, every=4),
        typical - _SHADING_GREY_LEVELS,
        typical + _SHADING_GREY_LEVELS,
    )
    near = np.clip(
        _local_median(rgb, _NEAR_BACKGROUND_UM / um_per_px, every=2), far - contrast, far + contrast
    )
    differs = np.abs(rgb - far).max(axis=-1) > contrast
    differs |= np.abs(cv2.blur(rgb - near, (2, 2))).max(axis=-1) > contrast / 2
    return np.asarray((differs & scanned) | ~overview.readable, np.bool_)


def _percentile(grey: NDArray[np.uint8]) -> int:
    below = np.cumsum(np.bincount(grey, minlength=256))
    return int(np.searchsorted(below, _BACKGROUND_PERCENTILE / 100 * below[-1]))


def _local_median(rgb: NDArray[np.uint8], side_px: float, *, every: int) -> NDArray[np.float32]:
    """Return the median of each pixel's neighbourhood, estimated from every `every`-th pixel."""
    height, width = rgb.shape[:2]
    sampled = np.ascontiguousarray(rgb[::every, ::every])
    side = int(np.clip(round(side_px / every) | 1, 3, 255))
    smooth = cv2.medianBlur(sampled, side).astype(np.float32)
    return np.asarray(cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _large_parts(mask: _Mask, *, longest_um: float, um_per_px: float) -> _Mask:
    """Return the mask without parts that are shorter in both directions."""
    grown = max(1, math.ceil(_SPECKS_APART_UM / 2 / um_per_px))
    joined = cv2.dilate(mask.astype(np.uint8), np.ones((2 * grown + 1, 2 * grown + 1), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    longest = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) - 2 * grown
    large = longest * um_per_px >= longest_um
    large[0] = False
    return np.asarray(mask & large[labels], np.bool_)


def _edges(
    detection_pass: DetectionPass, foreground: Foreground, *, axis: int, count: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first and last overview pixel of each unit along an axis, and one more on each side.

    An object at a unit's border may lie in the pixel beyond it.
    """
    start = (foreground.rect.x_min, foreground.rect.y_min)[axis]
    origin = detection_pass.origin_level_px[axis] * detection_pass.downsample
    at = (
        origin + np.arange(count + 1) * detection_pass.unit_px * detection_pass.scale - start
    ) / foreground.scale
    first = np.clip(np.floor(at[:-1]) - 1, 0, size).astype(np.intp)
    last = np.clip(np.ceil(at[1:]) + 1, 0, size).astype(np.intp)
    return first, last
