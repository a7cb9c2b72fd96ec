"""Optics of a slide scanner: illumination and focus."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fossilray.synthetic.painters.shapes import blur_px

Radiance = npt.NDArray[np.float32]
"""(h, w, 3) float32 RGB, 1 = full scale."""


def background(height: int, width: int, *, um_per_px: float, rng: np.random.Generator) -> Radiance:
    """Draw an empty field of view (height, width, 3), 0..1: tint, shading, faint dirt out of focus."""
    level = rng.uniform(0.84, 0.97) if rng.random() < 0.7 else rng.uniform(0.5, 0.86)
    tint = _tint(rng)
    field = np.empty((height, width, 3), np.float32)
    field[:] = (level * tint / tint.max()).astype(np.float32)
    field *= _shading(height, width, rng)[..., None]
    if rng.random() < 0.8:
        field *= _dirt(height, width, um_per_px, rng)[..., None]
    return np.clip(field, 0, 1)


def defocus(transmittance: Radiance, blur_um: float, um_per_px: float) -> Radiance:
    """Return the transmittance blurred by blur_um (standard deviation), on a sheet enlarged by the blur."""
    sigma_px = blur_um / um_per_px
    if sigma_px < 0.2:
        return transmittance
    room = int(np.ceil(2.5 * sigma_px))
    padded = cv2.copyMakeBorder(
        transmittance, room, room, room, room, cv2.BORDER_CONSTANT, value=(1.0, 1.0, 1.0)
    )
    return blur_px(np.asarray(padded, np.float32), sigma_px)


def _tint(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw the relative red, green and blue of the balanced lamp: near white, warm, cool, pink or green."""
    if rng.random() < 0.6:
        return np.array([1.0, 0.978, 0.965]) * rng.uniform(0.985, 1.015, 3)
    casts = np.array(
        [[1, 0.96, 0.86], [0.9, 0.95, 1], [1, 0.92, 0.95], [0.94, 1, 0.93], [1, 1, 1], [1, 0.97, 0.78]]
    )
    return np.asarray(casts[rng.integers(len(casts))] * rng.uniform(0.97, 1.03, 3), np.float64)


def _shading(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw a slight slope of the light and a slight fall-off away from its centre, (height, width)."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slope_x, slope_y = rng.normal(0, 0.015, 2).astype(np.float32)
    centre_x, centre_y = rng.uniform(-0.4, 0.4, 2).astype(np.float32)
    vignette = np.float32(rng.choice([0.0, 0.02, 0.08]) * rng.random())
    fall = vignette * (np.square(x - centre_x) + np.square(y - centre_y))
    return np.asarray(1 + slope_x * x + slope_y * y - fall, np.float32)


def _dirt(height: int, width: int, um_per_px: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw blobs far out of focus and mottled mounting medium, as a factor close to 1, (height, width)."""
    reduce = max(1, round(3 / um_per_px))
    rows, columns = height // reduce + 2, width // reduce + 2
    sheet = np.ones((rows, columns), np.float32)
    area_mm2 = height * width * um_per_px**2 * 1e-6
    for _ in range(min(400, rng.poisson(min(400.0, area_mm2 * rng.uniform(0, 40))))):
        radius = max(1, round(rng.uniform(8, 60) / (reduce * um_per_px)))
        centre = (int(rng.integers(columns)), int(rng.integers(rows)))
        cv2.circle(sheet, centre, radius, 1 - float(rng.uniform(0.005, 0.05)), -1)
    sheet = blur_px(sheet, rng.uniform(10, 25) / (reduce * um_per_px))
    spacing_px = max(4, round(rng.uniform(60, 300) / (reduce * um_per_px)))
    mottle = rng.standard_normal((rows // spacing_px + 3, columns // spacing_px + 3), dtype=np.float32)
    mottle = np.asarray(cv2.resize(mottle, (columns, rows), interpolation=cv2.INTER_CUBIC), np.float32)
    sheet = sheet * (1 + np.float32(rng.uniform(0.001, 0.008)) * mottle)
    full = cv2.resize(sheet, (columns * reduce, rows * reduce), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full[:height, :width], np.float32)
