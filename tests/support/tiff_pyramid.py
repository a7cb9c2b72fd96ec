"""Tiled TIFFs with levels, of any picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray


def write_tiff_pyramid(
    path: Path,
    rgb: NDArray[np.uint8],
    *,
    mpp: float,
    levels: int = 4,
    tile_px: int = 128,
    compression: str | None = None,
) -> Path:
    """A tiled TIFF whose levels are each half the one before."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            tiff.write(
                rgb,
                tile=(tile_px, tile_px),
                photometric="rgb",
                compression=compression,
                subfiletype=1 if level else 0,
                resolution=(10_000 / mpp, 10_000 / mpp),
                resolutionunit="centimeter",
            )
            rgb = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return path
