"""Measures of each crop: optical density, sharpness, mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


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
    plane_sharpness: NDArray[np.float32]
    """(k, planes) sharpness of each object in each focus plane, NaN where it could not be read; no columns for slides
    of which one plane is read."""

    @staticmethod
    def concatenate(parts: Sequence[Measures]) -> Measures:
        """Concatenate the rows of several; no rows where there are none."""
        if not parts:
            empty = np.zeros(0, np.float32)
            return Measures(
                empty, empty, np.zeros((0, 3), np.uint8), np.zeros(0, np.bool_), empty.reshape(0, 0)
            )
        return Measures(
            np.concatenate([part.opacity for part in parts]),
            np.concatenate([part.sharpness for part in parts]),
            np.concatenate([part.mean_rgb for part in parts]),
            np.concatenate([part.missing for part in parts]),
            np.concatenate([part.plane_sharpness for part in parts]),
        )


def measure_crops(
    crops: NDArray[np.uint8],
    background_rgb: NDArray[np.float32] | Sequence[float],
    failed: NDArray[np.bool_],
    *,
    contents: Sequence[tuple[int, int, int, int]] | None = None,
    plane_sharpness: NDArray[np.float32] | None = None,
) -> Measures:
    """Measure crops (k, S, S, 3) uint8; failed ones (k,) are not measured.

    background_rgb: I0, the light of the clear field. contents: x_min, y_min, x_max, y_max in crop pixels, one per
    crop, to leave out the padding of letterboxed crops; None: the whole square. Light of 0 counts as 1, so density is
    at most log10(I0); pixels brighter than I0 have a negative density. plane_sharpness: (k, planes), passed on.
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
    if plane_sharpness is None:
        plane_sharpness = np.zeros((len(crops), 0), np.float32)
    return Measures(opacity, sharpness, mean_rgb, failed.copy(), plane_sharpness)


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
