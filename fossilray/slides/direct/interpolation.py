"""Pixels between pixels, to the byte as pixman has them.

Pixman mixes four neighbours in float32, and a byte is 256 times the value, rounded down. OpenCV's filter is several
times as quick as the same steps in numpy, but rounds in another order. So it runs twice, a trifle too high and a
trifle too low: where both give one byte, that is pixman's; the few others (one in 250) are mixed in pixman's order.
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
# 256 times the share of 255; the factor, a power of two, changes no rounding.
SCALED: Table = WHOLE * (np.float32(1) / np.float32(255)) * np.float32(256)

# Pixman's sums and the filter's, each of four products in float32, are less than 1e-4 off when they are 256.
_TRIFLE = 1 / 2048
_STRIP_PX = 1 << 16
# For less, calls take longer than pixels.
_FEW_PX = 1 << 11


def interpolated(source: Image, across: float, down: float, *, is_opaque: bool) -> Image:
    """Each pixel of `source` mixed with its right and lower neighbours; the last column or row only contributes.

    across, down: how far to the neighbour, 0 to less than 1; at 0 there is no neighbour, and the last one counts too.
    is_opaque: reckoned in bytes, not in shares of 255.
    """
    if not (across or down):
        return source
    height, width = source.shape[0] - (down > 0), source.shape[1] - (across > 0)
    is_filtered = height * width >= _FEW_PX and (not is_opaque or _are_sums_exact(across, down))
    if is_filtered and height * width <= _STRIP_PX:
        return _filtered(source, across, down, is_opaque=is_opaque)[:height, :width]
    mixed = np.empty((height, width, 3), np.uint8)
    # What is worked on stays in the processor's cache.
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
    """Those of a pixel, its right, its lower and its lower right neighbour, in the order in which they are summed."""
    return tuple(
        np.asarray(weight, np.float32)
        for weight in ((1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down)
    )


def as_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rounded down, as bytes."""
    return np.minimum(values, np.float32(255)).astype(np.uint8)


def weighted_sum(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of the four along the first axis, one after the other as pixman does."""
    total: NDArray[np.float32] = products[0] + products[1]
    total += products[2]
    total += products[3]
    return total


def _are_sums_exact(across: float, down: float) -> bool:
    """Whether bytes weighted so are multiples of 1/1024, which lie more than a trifle apart and are never rounded."""
    return (across * 32).is_integer() and (down * 32).is_integer()


def _filtered(source: Image, across: float, down: float, *, is_opaque: bool) -> Image:
    """As large as `source`; a last column or row without neighbours is void."""
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
    # Empty ones contribute what they may.
    beside = doubtful + np.array([[0], [3], [row], [row + 3]])
    known = np.ascontiguousarray(source).reshape(-1).take(beside, mode="clip")
    products = SCALED.take(known) * weights[:, None]
    upper.reshape(-1)[doubtful] = as_bytes(weighted_sum(products))
    return upper


@lru_cache(maxsize=256)
def _is_never_lower(fraction: float) -> bool:
    """Whether pixman, when it mixes any two bytes so, is never below the exact value and two trifles, rounded down."""
    some = np.arange(256)
    exact = (some[:, None] * (1 - fraction) + some * fraction) * (256 / 255)
    sums = SCALED[:, None] * np.float32(1 - fraction) + SCALED * np.float32(fraction)
    return np.array_equal(np.minimum(np.floor(exact + 2 * _TRIFLE), 255), as_bytes(sums))


def _floor(source: Image, kernel: NDArray[np.float32], more: float) -> Image:
    """Weighted sums, rounded down after adding `more`; above 255 it is 255."""
    # The filter rounds to the nearest.
    return np.asarray(
        cv2.filter2D(source, -1, kernel, anchor=(0, 0), delta=more - 0.5, borderType=cv2.BORDER_REPLICATE),
        np.uint8,
    )


def _mixed(source: Image, across: float, down: float, values: Table) -> Image:
    """The same in pixman's own steps, without the last column or row where that has no neighbour."""
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
