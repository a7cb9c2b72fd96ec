"""Extended focus: one image of all focus planes, each pixel from the plane that shows most detail around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Image
from fossilray.slides.direct.compositing import Alpha

ReadPlane: TypeAlias = Callable[[int, int, int, int, int, int], tuple[Image, Alpha]]
"""Gives premultiplied RGB and coverage of plane, level, x, y (level-0 px), width and height (px of the level)."""

# Detail is the mean square of the Laplacian over 9 x 9 px: small enough for the wall of a grain, so large that noise
# alone rarely gains the factor below.
_SIGMA_PX = 1.0
_REACH_PX = 4
_FACTOR = 1.3
MARGIN_PX = _REACH_PX + 6
"""Pixels beyond a window on which its projection depends: 4 sigma of the blur, the Laplacian, and the mean."""


def project(
    read: ReadPlane, planes: int, reference: int, region: tuple[int, int, int, int, int], downsample: float
) -> tuple[Image, Alpha]:
    """Return the projection of a region: premultiplied RGB (height, width, 3) and the reference plane's coverage.

    region: level, x, y (level-0 px), width, height (px of the level). It does not depend on how an area is divided
    into regions, provided that their corners are on the level's pixels. The reference plane is shown where no other
    has clearly more detail, so that clear field does not become a patchwork of noise. Two planes are in memory at most.

    Raises what `read` raises.
    """
    level, x, y, width, height = region
    step = round(MARGIN_PX * downsample)
    margin = round(step / downsample)
    wide = level, x - step, y - step, width + 2 * margin, height + 2 * margin
    inner = np.s_[margin : margin + height, margin : margin + width]
    pixels, coverage = read(reference, *wide)
    most = detail(pixels)[inner] * np.float32(_FACTOR)
    shown = pixels[inner].copy()
    for plane in range(planes):
        if plane == reference:
            continue
        pixels, covered = read(plane, *wide)
        energy = detail(pixels)[inner]
        better = (energy > most) & (covered[inner] == 255)
        cv2.copyTo(pixels[inner], better.astype(np.uint8), shown)
        np.copyto(most, energy, where=better)
    return shown, np.ascontiguousarray(coverage[inner])


def detail(pixels: Image) -> NDArray[np.float32]:
    """Return the mean square of the Laplacian of a Gaussian around each pixel, (h, w)."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), _SIGMA_PX), cv2.CV_32F)
    side = 2 * _REACH_PX + 1
    return np.asarray(cv2.boxFilter(laplacian * laplacian, -1, (side, side)), np.float32)
