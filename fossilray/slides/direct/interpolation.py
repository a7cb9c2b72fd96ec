"""Bilinear interpolation with the same bytes as pixman.

Pixman sums four weighted neighbours in float32, and a byte is 256 times the value, rounded down. OpenCV's filter is
several times as fast as the same steps in numpy, but rounds in another order. It therefore runs twice, with a small
offset up and down: where both results agree, they equal pixman's; the few others (one in 250) are summed in pixman's
order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Image

Table: TypeAlias = NDArray[np.float32]
"""The value of each byte."""

WHOLE: Table = np.arange(256, dtype=np.float32)
# 256 times the fraction of 255; the factor, a power of two, changes no rounding.
SCALED: Table = WHOLE * (np.float32(1) / np.float32(255)) * np.float32(256)

# Pixman's sums and the filter's, each of four products in float32, are less than 1e-4 off when they are 256.
_TRIFLE = 1 / 2048
_STRIP_PX = 1 << 16
# Below this, the overhead of calls exceeds the work per pixel.
_FEW_PX = 1 << 11


def interpolated(source: Image, across: float, down: float, *, is_opaque: bool) -> Image:
    """Return `source` (h, w, 3) shifted by a fraction of a pixel: each pixel mixed with its right and lower neighbours.

    across, down: fraction of the distance to the neighbour, in [0, 1). Above 0, the last column or row is a neighbour
    only and the result is one smaller. is_opaque: computed in bytes, not in fractions of 255.
    """
    if not (across or down):
        return source
    height, width = source.shape[0] - (down > 0), source.shape[1] - (across > 0)
    is_filtered = height * width >= _FEW_PX and (not is_opaque or _are_sums_exact(across, down))
    if is_filtered and height * width <= _STRIP_PX:
        return _filtered(source, across, down, is_opaque=is_opaque)[:height, :width]
    mixed = np.empty((height, width, 3), np.uint8)
    # Strips of this size stay in the processor's cache.
    count = max(1, _STRIP_PX // width)
    for first in range(0, height, count):
        part, known = mixed[first : first + count], source[first : first + count + (down > 0)]
        if is_filtered:
            part[...] = _filtered(known, across, down, is_opaque=is_opaque)[: len(part), :width]
        else:
            part[...] = _mixed(known, across, down, WHOLE if is_opaque else SCALED)
    return mixed


def weights_of(
    across: float | NDArray[np.float64], down: float | NDArray[np.float64]
) -> tuple[NDArray[np.float32], ...]:
    """Return the weights of a pixel and its right, lower and lower right neighbour, in the order of summation."""
    return tuple(
        np.asarray(weight, np.float32)
        for weight in ((1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down)
    )


def as_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the values as bytes, rounded down and limited to 255."""
    return np.minimum(values, np.float32(255)).astype(np.uint8)


def weighted_sum(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of four products along the first axis, added one after the other as in pixman."""
    total: NDArray[np.float32] = products[0] + products[1]
    total += products[2]
    total += products[3]
    return total


def _are_sums_exact(across: float, down: float) -> bool:
    """Return whether sums of bytes with these weights are multiples of 1/1024: exact in float32, and distinct."""
    return (across * 32).is_integer() and (down * 32).is_integer()


def _filtered(source: Image, across: float, down: float, *, is_opaque: bool) -> Image:
    """Return the interpolated pixels, as large as `source`; a last column or row without neighbours is invalid."""
    weights = np.array(weights_of(across, down))
    kernel = weights.reshape(2, 2)[: 1 + (down > 0), : 1 + (across > 0)]
    if is_opaque:
        return _floor(source, kernel, _TRIFLE)
    scaled = kernel * np.float32(256 / 255)
    upper = _floor(source, scaled, _TRIFLE)
    if 0 in (across, down) and _is_never_lower(across or down):
        return upper
    doubtful = np.flatnonzero(upper != _floor(source, scaled, -_TRIFLE))
    row = 3 * source.shape[1]
    # Neighbours outside the image are clipped; their weight is 0, or their row or column is dropped.
    corners = doubtful + np.array([[0], [3], [row], [row + 3]])
    known = np.ascontiguousarray(source).reshape(-1).take(corners, mode="clip")
    products = SCALED.take(known) * weights[:, None]
    upper.reshape(-1)[doubtful] = as_bytes(weighted_sum(products))
    return upper


@lru_cache(maxsize=256)
def _is_never_lower(fraction: float) -> bool:
    """Return whether pixman's mix of any two bytes is never below the exact value plus twice _TRIFLE, rounded down."""
    some = np.arange(256)
    exact = (some[:, None] * (1 - fraction) + some * fraction) * (256 / 255)
    sums = SCALED[:, None] * np.float32(1 - fraction) + SCALED * np.float32(fraction)
    return np.array_equal(np.minimum(np.floor(exact + 2 * _TRIFLE), 255), as_bytes(sums))


def _floor(source: Image, kernel: NDArray[np.float32], more: float) -> Image:
    """Return weighted sums, rounded down after `more` is added, limited to 255."""
    # The filter rounds to the nearest.
    return np.asarray(
        cv2.filter2D(source, -1, kernel, anchor=(0, 0), delta=more - 0.5, borderType=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def _mixed(source: Image, across: float, down: float, values: Table) -> Image:
    """Return the interpolated pixels in pixman's own steps, without a last column or row that has no neighbour."""
    known = np.asarray(cv2.LUT(source, values), np.float32)
    here, right, below, beyond = weights_of(across, down)
    rows, columns = slice(None, -1 if down else None), slice(None, -1 if across else None)
    mixed: NDArray[np.float32] = known[rows, columns] * here
    if across:
        mixed += known[rows, 1:] * right
    if down:
        mixed += known[1:, columns] * below
    if across and down:
        mixed += known[1:, 1:] * beyond
    return as_bytes(mixed)
