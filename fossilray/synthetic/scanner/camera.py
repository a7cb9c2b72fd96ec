"""Microscopes of varied quality: the empty field behind a scene, and the camera that records it.

All parameters vary more than within one laboratory, so that a detector cannot rely on one appearance.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LightField = NDArray[np.float32]
"""(height, width, 3) relative light, 1 = full white."""


def draw_field(rng: np.random.Generator, *, height: int, width: int) -> LightField:
    """Draw an empty field of view, (height, width, 3): lamp, shading, mounting medium, dust, seams, scratches."""
    field = np.empty((height, width, 3), np.float32)
    field[:] = _lamp(rng)
    light = _shading(rng, height, width)
    light *= _mounting_medium(rng, height, width)
    if rng.random() < 0.35:
        light *= _dust_out_of_focus(rng, height, width)
    if rng.random() < 0.12:
        light *= _stitching_seams(rng, height, width)
    if rng.random() < 0.1:
        light *= _scratches(rng, height, width)
    field *= light[..., None]
    return field


def draw_stain(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a (3, 3) matrix on optical densities (rows in, columns out): pigment, lamp and stain of a laboratory."""
    identity = np.eye(3)
    draw = rng.random()
    if draw < 0.45:
        return np.asarray(identity * rng.uniform(0.7, 1.35), np.float32)
    grey = np.full((3, 3), 1 / 3)
    if draw < 0.7:
        mixed = (1 - (share := rng.uniform(0.0, 0.6))) * identity + share * grey
        return np.asarray(mixed * rng.uniform(0.6, 1.5, 3), np.float32)
    if draw < 0.85:
        # Safranin, fuchsin, Bismarck brown, methylene blue: they absorb green or red, independent of the wall.
        stain = np.array([[0.2, 1.0, 0.6], [0.3, 1.0, 0.9], [0.3, 0.8, 1.0], [1.0, 0.6, 0.2]])[
            rng.integers(4)
        ]
        share = rng.uniform(0.4, 1.0)
        stained = grey * (stain * rng.uniform(0.8, 1.2, 3))[None, :] * 1.8
        return np.asarray((1 - share) * identity + share * stained, np.float32)
    return np.asarray(grey * rng.uniform(0.7, 1.8) * rng.uniform(0.9, 1.1, 3), np.float32)


def photograph(light: LightField, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the camera image (h, w, 3) of the light: focus, colour fringes, sharpening, tone, noise, JPEG."""
    if rng.random() < 0.08:
        light = _relief_contrast(light, rng)
    light = _focus(light, rng)
    if rng.random() < 0.3:
        light = _colour_fringes(light, rng)
    if rng.random() < 0.45:
        radius = rng.uniform(0.6, 2.2)
        amount = np.float32(rng.uniform(0.3, 2.2 if radius < 1.2 else 1.2))
        light = light + amount * (light - cv2.GaussianBlur(light, (0, 0), radius))
    gamma = np.float32(np.exp(rng.normal(0, 0.18)))
    light = np.clip(light, 1e-3, 1.1) ** gamma
    if rng.random() < 0.07:
        light = np.repeat(light.mean(2, keepdims=True), 3, axis=2)
    levels = 255 * light
    noise = rng.choice([0.0, 1.0, 2.5, 6.0], p=[0.3, 0.4, 0.22, 0.08]) * rng.uniform(0.5, 1.5)
    if noise:
        grain = rng.standard_normal(levels.shape, dtype=np.float32)
        if rng.random() < 0.5:
            grain = 1.6 * cv2.GaussianBlur(grain, (0, 0), 0.7)
        if rng.random() < 0.5:
            grain = np.repeat(grain[..., :1], 3, axis=2)
        levels = levels + np.float32(noise) * grain * np.sqrt(np.clip(light, 0.1, 1))
    image = np.clip(levels, 0, 255).astype(np.uint8)
    return _jpeg(image, quality=int(rng.integers(40, 96))) if rng.random() < 0.6 else image


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, *, spacing_px: float
) -> NDArray[np.float32]:
    """Return noise (height, width) of zero mean and about unit deviation, with bumps spacing_px apart."""
    rows, columns = int(height / spacing_px) + 4, int(width / spacing_px) + 4
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    size = (int(columns * spacing_px) + 1, int(rows * spacing_px) + 1)
    bumps = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    top, left = int(spacing_px), int(spacing_px)
    return np.asarray(bumps[top : top + height, left : left + width], np.float32)


def _lamp(rng: np.random.Generator) -> NDArray[np.float32]:
    draw = rng.random()
    if draw < 0.5:
        level, tint = rng.uniform(0.8, 0.97), rng.normal(0, 0.015, 3)
    elif draw < 0.72:
        level, tint = rng.uniform(0.65, 0.95), np.sort(rng.uniform(-0.12, 0.06, 3))[::-1]
    elif draw < 0.9:
        level, tint = rng.uniform(0.42, 0.75), rng.normal(0, 0.03, 3)
    else:
        level, tint = rng.uniform(0.5, 0.95), rng.uniform(-0.25, 0.1, 3)
    return np.asarray(np.clip(level * (1 + tint), 0.25, 0.995), np.float32)


def _shading(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    strength = rng.choice([0.0, 0.04, 0.12], p=[0.35, 0.4, 0.25])
    slope = rng.normal(0, strength, 2).astype(np.float32)
    centre = rng.uniform(-0.8, 0.8, 2).astype(np.float32)
    vignette = np.float32(rng.uniform(0, strength))
    shade = 1 + slope[0] * rows + slope[1] * columns
    shade = shade - vignette * ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 2
    if rng.random() < 0.4:
        clouds = smooth_noise(rng, height, width, spacing_px=rng.uniform(40, 160))
        shade = shade + np.float32(rng.uniform(0.003, 0.03)) * clouds
    return np.asarray(np.clip(shade, 0.4, 1.15), np.float32)


def _mounting_medium(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Draw the grain of gelatine or resin, sometimes with flecks too small to be objects."""
    medium = np.ones((height, width), np.float32)
    if rng.random() < 0.6:
        grain = smooth_noise(rng, height, width, spacing_px=rng.uniform(1.2, 7))
        medium += np.float32(rng.choice([0.004, 0.012, 0.03], p=[0.5, 0.35, 0.15])) * grain
        if rng.random() < 0.4:
            # Grain that varies over the field, as in gelatine that dried unevenly.
            where = np.clip(smooth_noise(rng, height, width, spacing_px=rng.uniform(40, 150)), 0, 1)
            medium = 1 + (medium - 1) * where * 1.8
    if rng.random() < 0.35:
        flecks = np.zeros((height, width), np.float32)
        for _ in range(int(rng.integers(5, 10 + height * width // 900))):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            flecks[centre[1], centre[0]] = rng.uniform(-1, 0.6)
        medium += np.float32(rng.uniform(0.5, 2.2)) * cv2.GaussianBlur(flecks, (0, 0), rng.uniform(0.5, 0.9))
    return np.clip(medium, 0.5, 1.2).astype(np.float32)


def _dust_out_of_focus(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    # The dust is blurred, so an eighth of the resolution is enough.
    rows, columns = height // 8 + 1, width // 8 + 1
    shadow = np.zeros((rows, columns), np.float32)
    for _ in range(int(rng.integers(1, 9))):
        sigma = rng.uniform(0.9, 5)
        centre = (int(rng.integers(columns)), int(rng.integers(rows)))
        radius = max(1, int(sigma * rng.uniform(0.3, 1.6)))
        blob = np.zeros((rows, columns), np.float32)
        axes = (radius, max(1, int(radius * rng.uniform(0.3, 1))))
        cv2.ellipse(blob, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1 if rng.random() < 0.75 else 1)
        blob = np.asarray(cv2.GaussianBlur(blob, (0, 0), sigma * 0.6), np.float32)
        shadow += blob * np.float32(rng.uniform(-0.04, 0.16) / max(0.05, float(blob.max())))
    full = cv2.resize(shadow, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(1 - full, 0.5, 1.1).astype(np.float32)


def _stitching_seams(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Draw the seams between stitched photos of different brightness."""
    seams = np.ones((height, width), np.float32)
    seams[int(rng.integers(height)) :, :] *= np.float32(rng.uniform(0.93, 1.07))
    seams[:, int(rng.integers(width)) :] *= np.float32(rng.uniform(0.93, 1.07))
    return seams


def _scratches(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    lines = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 5))):
        start = rng.uniform(0, [width, height])
        end = start + rng.normal(0, 0.6, 2) * [width, height]
        first, last = (tuple(int(v) for v in point) for point in (start, end))
        cv2.line(lines, first, last, rng.uniform(-0.1, 0.08), 1, cv2.LINE_AA)
    return np.asarray(1 + cv2.GaussianBlur(lines, (0, 0), rng.uniform(0.6, 1.5)), np.float32)


def _relief_contrast(light: LightField, rng: np.random.Generator) -> LightField:
    """Apply differential interference contrast: slopes of the density become bright and dark."""
    density = -np.log(np.clip(light.mean(2), 0.02, 2))
    slope_x = cv2.Sobel(density, cv2.CV_32F, 1, 0)
    slope_y = cv2.Sobel(density, cv2.CV_32F, 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.tanh(np.cos(angle) * slope_x + np.sin(angle) * slope_y)
    softened = light ** np.float32(rng.uniform(0.4, 1))
    return np.asarray(
        np.clip(softened * (1 + 0.25 * rng.uniform(0.4, 1) * slope[..., None]), 0, 1.2), np.float32
    )


def _focus(light: LightField, rng: np.random.Generator) -> LightField:
    draw = rng.random()
    sigma = 0.0 if draw < 0.45 else rng.uniform(0.3, 0.9) if draw < 0.85 else rng.uniform(0.9, 2.0)
    return cv2.GaussianBlur(light, (0, 0), sigma).astype(np.float32) if sigma else light


def _colour_fringes(light: LightField, rng: np.random.Generator) -> LightField:
    """Shift red and blue against green by a fraction of a pixel."""
    fringed = light.copy()
    for channel in (0, 2):
        shift = np.array([[1, 0, rng.normal(0, 0.35)], [0, 1, rng.normal(0, 0.35)]], np.float32)
        plane = np.ascontiguousarray(light[..., channel])
        size = (plane.shape[1], plane.shape[0])
        fringed[..., channel] = cv2.warpAffine(plane, shift, size, borderMode=cv2.BORDER_REPLICATE)
    return fringed


def _jpeg(image: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not ok:
        raise ValueError(f"image of shape {image.shape} cannot be written as JPEG")
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
