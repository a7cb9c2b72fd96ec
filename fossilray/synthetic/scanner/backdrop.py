"""Empty slide as recorded by a scanner: lamp, shading, grain, dirt, folds of the mounting film."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.scanner.camera import smooth_noise

BLOCK_PX = 512
"""The slide is lit block by block, so that what a pixel shows depends on its position alone."""

_CELL_PX = 32
_CELLS = BLOCK_PX // _CELL_PX
_GRAIN_BLOCKS = 3
_MOST_LIGHT = 1.12
_ROOM_PX = 24
"""Margin around a block in which folds are drawn, so that their blur continues across blocks."""

Gray = NDArray[np.float32]


@dataclass(frozen=True)
class _Fold:
    """Crease of the mounting film: a dark line with brighter lines beside it.

    points: (n, 2) px. shift: (2,) px to the bright line. darkness: relative loss of light. sharpness_px: standard
    deviation of the blur.
    """

    points: NDArray[np.float64]
    shift: NDArray[np.float64]
    darkness: float
    sharpness_px: float


class Backdrop:
    """Empty slide, rendered by blocks; memory: two numbers per 32 x 32 px, and a sheet of grain.

    lamp_rgb: colour of the clear field, 0..1.
    """

    def __init__(self, rng: np.random.Generator, *, width: int, height: int, um_per_px: float) -> None:
        self.lamp_rgb = _draw_lamp(rng)
        rows, columns = (-(-side // BLOCK_PX) * _CELLS + 1 for side in (height, width))
        self._shade = _shading(rng, rows, columns, cell_um=_CELL_PX * um_per_px)
        self._grain_amount = 1 + 0.45 * np.clip(smooth_noise(rng, rows, columns, spacing_px=11), -2, 2)
        self._grain = _draw_grain(rng)
        self._folds = [
            _draw_fold(rng, width, height) for _ in range(int(rng.poisson(width * height * 1.2e-8)))
        ]

    def block(self, column: int, row: int) -> Gray:
        """Return the relative light of one block, (BLOCK_PX, BLOCK_PX), 1 = light of the lamp."""
        light = _enlarge(_window(self._shade, column, row))
        grain_x, grain_y = column % _GRAIN_BLOCKS * BLOCK_PX, row % _GRAIN_BLOCKS * BLOCK_PX
        grain = self._grain[grain_y : grain_y + BLOCK_PX, grain_x : grain_x + BLOCK_PX]
        light += _enlarge(_window(self._grain_amount, column, row)) * grain
        for fold in self._folds:
            _draw_over(light, fold, left=column * BLOCK_PX, top=row * BLOCK_PX)
        return np.minimum(light, np.float32(_MOST_LIGHT), out=light)


def _draw_lamp(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the white of one scanner, RGB 0..1, near the usual (226, 222, 219) / 255."""
    usual = np.array([226, 222, 219]) / 255
    return np.asarray(
        np.clip(usual * rng.uniform(0.965, 1.045) * rng.normal(1, 0.008, 3), 0, 0.97), np.float32
    )


def _shading(rng: np.random.Generator, rows: int, columns: int, *, cell_um: float) -> Gray:
    """Draw the light at the corners of cells, (rows, columns): a slope, clouds in the medium, dirt out of focus."""
    down = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    slope = rng.normal(0, 0.008, 2).astype(np.float32)
    shade = 1 + slope[0] * down + slope[1] * across
    for spacing, strength in ((24, 0.006), (7, 0.0035)):
        shade += np.float32(strength) * smooth_noise(rng, rows, columns, spacing_px=spacing)
    dirt = np.zeros((rows, columns), np.float32)
    area_mm2 = rows * columns * cell_um**2 * 1e-6
    for _ in range(int(rng.poisson(2.5 * area_mm2))):
        centre = (int(rng.integers(columns)), int(rng.integers(rows)))
        axes = tuple(max(1, round(radius_um / cell_um)) for radius_um in rng.uniform(12, 60, 2))
        cv2.ellipse(dirt, centre, axes, rng.uniform(0, 180), 0, 360, float(rng.uniform(0.01, 0.07)), -1)
    return np.asarray(shade - cv2.GaussianBlur(dirt, (0, 0), 2.2), np.float32)


def _draw_grain(rng: np.random.Generator) -> Gray:
    """Draw a seamless sheet of grain: the mottle of the medium and the noise of the camera."""
    side = BLOCK_PX * _GRAIN_BLOCKS
    sheet = np.zeros((side, side), np.float32)
    for spacing_px, strength in (
        (0.55, rng.uniform(0.004, 0.006)),
        (1.9, rng.uniform(0.002, 0.0035)),
        (5.0, rng.uniform(0.001, 0.0025)),
    ):
        sheet += np.float32(strength) * _endless_noise(rng, side, sigma_px=spacing_px)
    return sheet


def _endless_noise(rng: np.random.Generator, side: int, *, sigma_px: float) -> Gray:
    """Return seamless Gaussian noise (side, side) of unit deviation, smoothed by a Gaussian of sigma_px."""
    white = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    white *= np.exp(-2 * (np.pi * sigma_px) ** 2 * (rows**2 + columns**2))
    noise = np.fft.irfft2(white, s=(side, side))
    return np.asarray(noise / noise.std(), np.float32)


def _draw_fold(rng: np.random.Generator, width: int, height: int) -> _Fold:
    """Draw a long, slightly curved fold at a random position of the slide."""
    start = rng.uniform(0.1, 0.9, 2) * [width, height]
    heading = rng.uniform(0, 2 * np.pi)
    length = rng.uniform(0.15, 0.7) * min(width, height)
    count = max(8, round(length / 60))
    turns = heading + np.cumsum(rng.normal(0, 0.035, count))
    points = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * length / count, axis=0)
    across = np.array([-np.sin(heading), np.cos(heading)]) * rng.uniform(2.5, 6)
    return _Fold(points, across, float(rng.uniform(0.04, 0.16)), float(rng.uniform(0.8, 2.5)))


def _draw_over(light: Gray, fold: _Fold, *, left: int, top: int) -> None:
    origin = np.array([left - _ROOM_PX, top - _ROOM_PX])
    side = BLOCK_PX + 2 * _ROOM_PX
    low, high = fold.points.min(0) - origin, fold.points.max(0) - origin
    if (high < -_ROOM_PX).any() or (low > side + _ROOM_PX).any():
        return
    lines = np.zeros((side, side), np.float32)
    for shift, change in ((0.0, -fold.darkness), (1.0, 0.6 * fold.darkness), (-0.8, 0.35 * fold.darkness)):
        path = np.round((fold.points - origin + shift * fold.shift) * 16).astype(np.int32)
        line = np.zeros((side, side), np.float32)
        cv2.polylines(line, [path], False, change, 3, cv2.LINE_AA, 4)
        lines += line
    lines = np.asarray(cv2.GaussianBlur(lines, (0, 0), fold.sharpness_px), np.float32)
    light += light * lines[_ROOM_PX:-_ROOM_PX, _ROOM_PX:-_ROOM_PX]


def _window(sheet: Gray, column: int, row: int) -> Gray:
    """Return the values at the corners of one block's cells, including those shared with its neighbours."""
    top, left = row * _CELLS, column * _CELLS
    return sheet[top : top + _CELLS + 1, left : left + _CELLS + 1]


def _enlarge(corners: Gray) -> Gray:
    """Interpolate linearly between the corners of cells, so that blocks join without a step."""
    side = (_CELLS + 1) * _CELL_PX
    between = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
    half = _CELL_PX // 2
    return np.array(between[half:-half, half:-half], np.float32)
