"""Areas and overlaps of bounding boxes given as x_min, y_min, x_max, y_max."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


def box_area(boxes: NDArray[Any]) -> _Floats:
    """Area of boxes (..., 4), in their unit squared."""
    sides = np.asarray(boxes[..., 2:] - boxes[..., :2], np.float64)
    return np.asarray(sides.prod(axis=-1), np.float64)


def box_intersection(first: NDArray[Any], second: NDArray[Any]) -> _Floats:
    """Area that boxes of two arrays share; the arrays (..., 4) broadcast against each other."""
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return np.asarray(np.clip(sides, 0, None).prod(axis=-1, dtype=np.float64), np.float64)


def box_iou(first: NDArray[Any], second: NDArray[Any]) -> _Floats:
    """Intersection over union of boxes of two arrays, 0 to 1.

    The arrays (..., 4) broadcast: (n, 4) with (n, 4) gives pairs (n,), (n, 1, 4) with (m, 4) a matrix (n, m).
    """
    common = box_intersection(first, second)
    return np.asarray(common / np.maximum(box_area(first) + box_area(second) - common, 1e-9), np.float64)
