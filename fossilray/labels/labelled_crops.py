"""Labelled crops as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledCrops:
    """Square crops and their classes."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, stretched to the square."""
    shape: NDArray[np.float32]
    """(n, 2) width and height before stretching, the longer one 1."""
    label: NDArray[np.int64]
    """(n,) index into `classes`."""
    classes: tuple[str, ...]
    """`folder/class`, sorted."""

    def __len__(self) -> int:
        return len(self.label)
