"""Sharpness of an object in one focus plane, for the choice of the plane that shows it best.

S. Pertuz, D. Puig and M. A. Garcia (2013), "Analysis of focus measure operators for shape-from-focus", Pattern
Recognition 46, 1415-1432: measures by the Laplacian are best on sharp images and suffer most from noise. The image is
therefore smoothed first (a Laplacian of a Gaussian), at one scale for all slides, so that pixels of a camera that
oversamples do not count as detail.
"""

from __future__ import annotations

import cv2
import numpy as np

from fossilray.core.types import Image

SHARPNESS_UM_PER_PX = 0.5
"""Scale at which sharpness is measured: a 20x objective resolves about as much. Coarser levels stay as they are."""
_SIGMA_PX = 1.0
_LEAST_PX = 5


def object_sharpness(pixels: Image, um_per_px: float) -> float:
    """Return the variance of the Laplacian of a Gaussian over the ellipse inside the image, in squared grey levels.

    pixels: (h, w, 3), the object's box. um_per_px: its scale; pixels that are finer than SHARPNESS_UM_PER_PX are
    averaged to it. The corners of the box, which show neighbours, do not count.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = um_per_px / SHARPNESS_UM_PER_PX
    if scale < 0.75:
        size = tuple(max(_LEAST_PX, round(side * scale)) for side in grey.shape[::-1])
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    height, width = grey.shape
    if min(height, width) < _LEAST_PX:
        return 0.0
    detail = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), _SIGMA_PX), cv2.CV_32F)
    rows, columns = np.ogrid[:height, :width]
    ellipse = (2 * rows + 1 - height) ** 2 / height**2 + (2 * columns + 1 - width) ** 2 / width**2 <= 1
    return float(np.var(detail[ellipse], dtype=np.float64))
