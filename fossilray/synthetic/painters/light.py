"""Transmittance of a drawing, from pigment, pose, refraction, focus and scale."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fossilray.synthetic.painters.shapes import Canvas, Map, blur_px
from fossilray.synthetic.painters.specimen import Appearance, Drawing

# Absorbance of organic walls in red, green and blue, relative to blue, by thermal maturity 0..1:
# pale yellow, amber, brown, dark brown, black (optical densities measured on scans of such slides).
_MATURITY = np.linspace(0, 1, 5)
_ABSORBANCE = np.array([[0.04, 0.14, 1], [0.09, 0.27, 1], [0.16, 0.38, 1], [0.34, 0.54, 1], [0.90, 0.95, 1]])
_STAINS = np.array([[0.16, 1.0, 0.45], [0.35, 1.0, 0.30], [0.12, 0.95, 0.75]])
_NEUTRAL_BLACK = np.array([1.0, 0.97, 0.93])

_VISIBLE_LOSS = 0.08
"""Share of the light that must be lost before a pixel counts as seen."""


class Light(NamedTuple):
    """Specimen on a tight crop: transmittance (h, w, 3), and mask (h, w) of its visible pixels."""

    transmittance: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def develop(
    drawing: Drawing,
    canvas: Canvas,
    look: Appearance,
    rng: np.random.Generator,
    *,
    size_um: float,
    um_per_px: float,
) -> Light:
    """Convert a drawing to transmittance: add pigment, rotate, focus and scale it.

    size_um: longest visible extent of the result. um_per_px: its resolution.
    """
    fresh, charred = look.maturity
    maturity = fresh + (charred - fresh) * float(rng.beta(1.5, 2.2))
    low, high = np.log(look.strength)
    strength = float(np.exp(low + (high - low) * rng.beta(2, 2)))
    ghost = rng.random() < look.ghosts
    if ghost:
        strength *= rng.uniform(0.1, 0.35)
        maturity *= 0.6
    pigment = _pigment(maturity, look, rng) * strength
    stack = np.dstack([drawing.density, drawing.dark, drawing.coverage])
    halo_px = min(rng.uniform(*look.halo_um), 0.07 * size_um) * canvas.px_per_um
    # Depth of field: most specimens are sharp, some are above or below the plane of focus.
    blur_um = rng.uniform(0.05, 0.32) if rng.random() < 0.8 else rng.uniform(0.32, 1.2)
    blur_px_sigma = min(blur_um, 0.05 * size_um) * canvas.px_per_um
    room_px = 4 + 3 * (halo_px + blur_px_sigma)
    density, dark, coverage = _pose(stack, float(pigment.max()), room_px, look, rng)
    optical = density[..., None] * -pigment.astype(np.float32)
    optical -= dark[..., None] * _NEUTRAL_BLACK.astype(np.float32)
    light = np.exp(optical, out=optical)
    glare = np.float32(rng.uniform(0.015, 0.09))
    light *= 1 - glare
    light += glare
    relief = rng.uniform(*look.relief) * (1.15 if ghost else 1.0)
    light *= _fringe(coverage, density, relief=relief, halo_px=halo_px, rng=rng)
    light = blur_px(light, blur_px_sigma)
    coverage = blur_px(coverage, blur_px_sigma)
    # Scanners sharpen what they store, most of them visibly.
    sharpening = rng.uniform(0.0, 0.9) if rng.random() < 0.7 else 0.0
    if sharpening > 0.1:
        light += np.float32(sharpening) * (light - blur_px(light, max(0.8, 0.5 * canvas.px_per_um)))
    return _scale(light, coverage, size_px=size_um / um_per_px)


def _pigment(maturity: float, look: Appearance, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if rng.random() < look.stains:
        colour = _STAINS[rng.integers(len(_STAINS))] * rng.uniform(0.8, 1.2, 3)
        return np.asarray(colour / colour.max(), np.float64)
    colour = np.array([np.interp(maturity, _MATURITY, _ABSORBANCE[:, channel]) for channel in range(3)])
    colour[:2] *= rng.uniform(0.85, 1.25) * rng.uniform(0.92, 1.08, 2)
    # Older specimens are darker as well as browner.
    return np.asarray(np.minimum(colour, 1.05) * (1 + 0.9 * maturity), np.float64)


def _pose(
    stack: npt.NDArray[np.float32],
    absorbance: float,
    room_px: float,
    look: Appearance,
    rng: np.random.Generator,
) -> tuple[Map, Map, Map]:
    """Rotate, tilt and slightly warp a drawing, and return density, dark and coverage on the new sheet.

    stack: (h, w, 3) density, dark and coverage. room_px: margin for the halo.
    """
    seen = (stack[..., 0] * absorbance + stack[..., 1] > _VISIBLE_LOSS) | (stack[..., 2] > 0.5)
    hull = _hull(seen)
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(*look.squash)
    tilt = rng.uniform(0, np.pi)
    turn = _rotation(angle) @ _rotation(tilt) @ np.diag([1.0, squash]) @ _rotation(-tilt)
    corners = hull @ turn.T
    margin = 0.04 * float(np.ptp(corners, axis=0).max()) + room_px
    low = corners.min(0) - margin
    width, height = (int(v) for v in np.ceil(np.ptp(corners, axis=0) + 2 * margin))
    back = np.linalg.inv(turn)
    sheet = Canvas(height, width, 1.0)
    columns = np.arange(width, dtype=np.float32)[None, :] + np.float32(low[0])
    rows = np.arange(height, dtype=np.float32)[:, None] + np.float32(low[1])
    map_x = np.float32(back[0, 0]) * columns + np.float32(back[0, 1]) * rows
    map_y = np.float32(back[1, 0]) * columns + np.float32(back[1, 1]) * rows
    if look.elastic > 0:
        amplitude = np.float32(look.elastic * rng.uniform(0.2, 1.0) * min(width, height) / 2)
        map_x += amplitude * sheet.noise(rng, 1.3)
        map_y += amplitude * sheet.noise(rng, 1.3)
    turned = cv2.remap(stack, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    density, dark, coverage = (np.asarray(part, np.float32) for part in cv2.split(turned))
    return density, dark, coverage


def _fringe(
    coverage: Map, density: Map, *, relief: float, halo_px: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return refraction as a factor on the light, (h, w, 3): bright just outside an edge, dark just inside."""
    phase = np.asarray(coverage + np.float32(0.25) * np.minimum(density, 3), np.float32)
    fringe = _blur_fast(phase, halo_px) - blur_px(phase, min(halo_px * 0.3, 2.0))
    gain = np.asarray(relief * rng.uniform(0.85, 1.15, 3), np.float32)
    return np.asarray(np.clip(1 + fringe[..., None] * gain, 0.3, 1.22), np.float32)


def _blur_fast(image: Map, sigma_px: float) -> Map:
    if sigma_px < 4:
        return blur_px(image, sigma_px)
    height, width = image.shape
    half = (max(1, width // 2), max(1, height // 2))
    small = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(_blur_fast(small, sigma_px / 2), (width, height)), np.float32)


def _scale(light: npt.NDArray[np.float32], coverage: Map, *, size_px: float) -> Light:
    scale = size_px / longest_extent_px(_seen(light, coverage))
    height, width = light.shape[:2]
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    light = np.asarray(np.clip(cv2.resize(light, shape, interpolation=how), 0.0, 1.25), np.float32)
    coverage = np.asarray(cv2.resize(coverage, shape, interpolation=how), np.float32)
    mask = _seen(light, coverage)
    if not mask.any():
        # Smaller than a pixel: the mask is the darkest pixel alone.
        mask.flat[int(_darkest(light).argmin())] = True
    touched = mask | (_darkest(light) < 0.994) | (_darkest(-light) < -1.006)
    left, top, width, height = cv2.boundingRect(touched.astype(np.uint8))
    inside = np.s_[top : top + height, left : left + width]
    light = np.pad(light[inside], ((2, 2), (2, 2), (0, 0)), constant_values=1.0)
    return Light(light, np.pad(mask[inside], 2))


def _seen(light: npt.NDArray[np.float32], coverage: Map) -> npt.NDArray[np.bool_]:
    return np.asarray((_darkest(light) < 1 - _VISIBLE_LOSS) | (coverage > 0.5), np.bool_)


def _darkest(light: npt.NDArray[np.float32]) -> Map:
    # Three strided passes: a reduction over such a short axis takes several times as long.
    return np.minimum(np.minimum(light[..., 0], light[..., 1]), light[..., 2])


def longest_extent_px(mask: npt.NDArray[np.bool_]) -> float:
    """Return the largest distance across the mask in any direction, in pixels."""
    hull = _hull(mask)
    return float(np.sqrt(np.square(hull[:, None] - hull[None]).sum(2).max())) + 1.0


def _hull(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    rows = np.flatnonzero(mask.any(1))
    if rows.size == 0:
        return np.array([[mask.shape[1] / 2, mask.shape[0] / 2]])
    # The hull depends only on the first and the last pixel of each row.
    first = mask[rows].argmax(1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    ends = np.concatenate([np.stack([first, rows], 1), np.stack([last, rows], 1)])
    return np.asarray(cv2.convexHull(ends.astype(np.int32))[:, 0], np.float64)


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
