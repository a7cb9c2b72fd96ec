"""Measures of each crop: optical density, sharpness, mean colour; and the slide's clear field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion

if TYPE_CHECKING:
    from fossilray.slides.slide import Slide

PATCH_PX = 256
MAX_PATCHES = 8
"""Clear-field sampling reads at most 8 x 8 patches of 256 px: 4 megapixels, spread over the scanned area."""

NEAR_MODE_GREY = 6.0
"""Pixels within this many grey levels of the clear field's mode are averaged: scanner noise, not objects."""


@dataclass(frozen=True)
class Measures:
    """Columns of `objects` that are computed from pixels, one entry per crop; null where `missing`."""

    opacity: NDArray[np.float32]
    """Mean optical density, -log10(I / I0), over the object's box and the three channels."""
    sharpness: NDArray[np.float32]
    """Variance of the Laplacian (4 neighbours) of the grey crop, at crop scale, in squared grey levels."""
    mean_rgb: NDArray[np.uint8]
    """(k, 3) mean colour of the box."""
    missing: NDArray[np.bool_]

    @staticmethod
    def concatenate(parts: Sequence[Measures]) -> Measures:
        """Concatenate the rows of several; no rows where there are none."""
        if not parts:
            empty = np.zeros(0, np.float32)
            return Measures(empty, empty, np.zeros((0, 3), np.uint8), np.zeros(0, np.bool_))
        return Measures(
            np.concatenate([part.opacity for part in parts]),
            np.concatenate([part.sharpness for part in parts]),
            np.concatenate([part.mean_rgb for part in parts]),
            np.concatenate([part.missing for part in parts]),
        )


def measure_crops(
    crops: NDArray[np.uint8],
    background_rgb: NDArray[np.float32] | Sequence[float],
    failed: NDArray[np.bool_],
    *,
    contents: Sequence[tuple[int, int, int, int]] | None = None,
) -> Measures:
    """Measure crops (k, S, S, 3) uint8; failed ones (k,) are not measured.

    background_rgb: I0, the light of the clear field. contents: x_min, y_min, x_max, y_max in crop pixels, one per
    crop, to leave out the padding of letterboxed crops; None: the whole square. Light of 0 counts as 1, so density is
    at most log10(I0); pixels brighter than I0 have a negative density.
    """
    density = _density_by_value(np.asarray(background_rgb, np.float64))
    opacity = np.full(len(crops), np.nan, np.float32)
    sharpness = np.full(len(crops), np.nan, np.float32)
    mean_rgb = np.zeros((len(crops), 3), np.uint8)
    for index in np.flatnonzero(~failed).tolist():
        crop = crops[index]
        if contents is not None:
            left, top, right, bottom = contents[index]
            crop = crop[top:bottom, left:right]
        shares = _shares_by_value(crop)
        opacity[index] = (shares * density).sum() / 3
        mean_rgb[index] = np.rint(shares @ np.arange(256))
        sharpness[index] = _laplacian_variance(crop)
    return Measures(opacity, sharpness, mean_rgb, failed.copy())


def estimate_background(slide: Slide) -> NDArray[np.float32]:
    """Return the RGB (3,) of the slide's clear field, the I0 of its optical densities.

    It is the brightest frequent mode of the scanned area, sampled on the coarsest level that can be read; where no
    pixel can be read, the background that the slide declares.
    """
    for level in reversed(range(len(slide.info.levels))):
        pixels = _sample_scanned(slide, level)
        if len(pixels):
            return clear_field(pixels)
    return np.asarray(slide.info.background_rgb, np.float32)


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


def _density_by_value(background: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 256) optical density of each 8-bit value in each channel."""
    light = np.maximum(np.arange(256, dtype=np.float64), 1.0)
    return -np.log10(light[None, :] / np.maximum(background, 1.0)[:, None])


def _shares_by_value(crop: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(3, 256) share of the pixels that have each 8-bit value, by channel."""
    counts = [cv2.calcHist([crop], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    # Counted in float32, which is exact up to 16 megapixels.
    shares: NDArray[np.float64] = np.stack(counts).astype(np.float64) / (crop.shape[0] * crop.shape[1])
    return shares


def _laplacian_variance(crop: NDArray[np.uint8]) -> float:
    """Variance of the 4-neighbour Laplacian over inner pixels; 0 for crops too thin to have any."""
    if min(crop.shape[:2]) < 3:
        return 0.0
    grey = cv2.cvtColor(crop.astype(np.float32), cv2.COLOR_RGB2GRAY)
    inner = cv2.Laplacian(grey, cv2.CV_32F)[1:-1, 1:-1]
    # OpenCV sums in float64, whose precision suffices for the difference.
    mean_of_squares = cv2.norm(inner, cv2.NORM_L2SQR) / inner.size
    return float(max(0.0, mean_of_squares - cv2.mean(inner)[0] ** 2))


def _sample_scanned(slide: Slide, level: int) -> NDArray[np.uint8]:
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
                    min(PATCH_PX, width),
                    min(PATCH_PX, height),
                )
            except UnreadableRegion:
                continue
            patches.append(patch[coverage == 255])
    return np.concatenate(patches) if patches else np.zeros((0, 3), np.uint8)


def _patches_along(side: int) -> int:
    return min(MAX_PATCHES, -(-side // PATCH_PX))


def _spread(index: int, count: int, side: int) -> int:
    """Start of the index-th of `count` patches that are spread from one end of a side to the other."""
    last = max(0, side - PATCH_PX)
    return round(last * index / (count - 1)) if count > 1 else last // 2
