"""Clear field of a slide: its light where nothing lies, sampled over the scanned area and shown beyond it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Image, SlideInfo

NEAR_MODE_GREY = 6.0
"""Pixels within this many grey levels of the clear field's mode belong to it: scanner noise, not objects."""

# A stated background this near to the clear field (grey levels) is the clear field.
_SAME_GREY = 12
# A picture without a clear field, such as a ramp, has no colour that as many of its pixels share.
_LEAST_SHARE = 0.05
_PATCH_PX = 256
# At most 8 x 8 patches of 256 px are read: 4 megapixels, spread over the scanned area.
_MAX_PATCHES = 8


class ScannedPixels(Protocol):
    """Slide whose pixels and coverage are read by level, x, y (level-0 px), width and height (px of the level)."""

    @property
    def info(self) -> SlideInfo: ...

    def read_with_alpha(
        self, level: int, x: int, y: int, width: int, height: int, /
    ) -> tuple[Image, NDArray[np.uint8]]: ...


def estimate_background(slide: ScannedPixels) -> NDArray[np.float32]:
    """Return the RGB (3,) of the slide's clear field, the I0 of its optical densities.

    It is the brightest frequent mode of the scanned area, sampled on the coarsest level that can be read; where no
    pixel can be read, the background that the slide declares.
    """
    pixels = sample_scanned(slide)
    return clear_field(pixels) if len(pixels) else np.asarray(slide.info.background_rgb, np.float32)


def sample_scanned(slide: ScannedPixels) -> NDArray[np.uint8]:
    """Return scanned pixels (n, 3) from patches over the scanned area, of the coarsest level that can be read."""
    for level in reversed(range(len(slide.info.levels))):
        pixels = _sample_level(slide, level)
        if len(pixels):
            return pixels
    return np.zeros((0, 3), np.uint8)


def clear_field(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colour (3,) of the clear field among pixels (n, 3): the median around the brightest large mode."""
    grey = pixels.mean(axis=1)
    counts = np.bincount(np.rint(grey).astype(np.intp), minlength=256).astype(np.float64)
    # A narrow Gaussian joins the two or three grey levels that one even field spreads over.
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    # A fifth of the largest mode: crowded slides have less clear field than objects, glints are fewer.
    large = smooth >= 0.2 * smooth.max()
    rising = np.append(True, smooth[1:] >= smooth[:-1])
    falling = np.append(smooth[:-1] >= smooth[1:], True)
    mode = int(np.flatnonzero(large & rising & falling).max())
    near = np.abs(grey - mode) <= NEAR_MODE_GREY
    colour: NDArray[np.float32] = np.median(pixels[near], axis=0).astype(np.float32)
    return colour


def background_beyond_scan(
    stated_rgb: tuple[int, int, int], pixels: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """Return the colour to show where nothing was scanned: the stated one, or the clear field of `pixels`.

    A file may state any fill colour; against another one than the clear field, detectors take the rim of the scan for
    objects.
    """
    if not len(pixels):
        return stated_rgb
    measured = clear_field(pixels)
    if np.abs(np.asarray(stated_rgb, np.float32) - measured).max() <= _SAME_GREY:
        return stated_rgb
    if (np.abs(pixels - measured).max(axis=1) <= NEAR_MODE_GREY).mean() < _LEAST_SHARE:
        return stated_rgb
    red, green, blue = np.rint(measured).astype(int).tolist()
    return red, green, blue


def _sample_level(slide: ScannedPixels, level: int) -> NDArray[np.uint8]:
    """(n, 3) opaque pixels from patches spread evenly over the bounds at one level; unreadable ones skipped."""
    bounds, downsample = slide.info.bounds, slide.info.levels[level].downsample
    width, height = max(1, int(bounds.width / downsample)), max(1, int(bounds.height / downsample))
    columns, rows = _patches_along(width), _patches_along(height)
    patches = []
    for row in range(rows):
        for column in range(columns):
            left, top = _spread(column, columns, width), _spread(row, rows, height)
            try:
                patch, coverage = slide.read_with_alpha(
                    level,
                    bounds.x_min + round(left * downsample),
                    bounds.y_min + round(top * downsample),
                    min(_PATCH_PX, width),
                    min(_PATCH_PX, height),
                )
            except UnreadableRegion:
                continue
            patches.append(patch[coverage == 255])
    return np.concatenate(patches) if patches else np.zeros((0, 3), np.uint8)


def _patches_along(side: int) -> int:
    return min(_MAX_PATCHES, -(-side // _PATCH_PX))


def _spread(index: int, count: int, side: int) -> int:
    """Start of the index-th of `count` patches that are spread from one end of a side to the other."""
    last = max(0, side - _PATCH_PX)
    return round(last * index / (count - 1)) if count > 1 else last // 2
