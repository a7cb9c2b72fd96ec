"""Vectors of classes that lie apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clouds(
    counts: tuple[int, ...], *, dimensions: int, seed: int, spread: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vectors and labels: a cloud of each size, around its own axis."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    return np.eye(len(counts), dimensions)[label] * 3 + rng.normal(0, spread, (len(label), dimensions)), label
