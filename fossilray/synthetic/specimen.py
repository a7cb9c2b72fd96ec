"""From a drawing to light: wear, pigment, refraction and focus of one specimen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fossilray.synthetic.shapes import Canvas, Map, bend, blur_px, step

# Absorbance of organic walls in red, green and blue, relative to blue, by thermal maturity 0..1:
# pale yellow, amber, brown, dark brown, black (optical densities measured on scans of such slides).
_MATURITY = np.linspace(0, 1, 5)
_ABSORBANCE = np.array([[0.05, 0.16, 1], [0.10, 0.29, 1], [0.20, 0.42, 1], [0.42, 0.62, 1], [0.88, 0.94, 1]])
_STAINS = np.array([[0.16, 1.0, 0.45], [0.35, 1.0, 0.30], [0.12, 0.95, 0.75], [0.75, 0.85, 0.55]])
_NEUTRAL_BLACK = np.array([1.0, 0.97, 0.93])

_VISIBLE_LOSS = 0.08
"""Share of the light that must be lost before a pixel counts as seen."""


@dataclass
class Drawing:
    """What a painter puts on its canvas, as maps of one size.

    density: thickness times pigment, 1 = an ordinary wall seen face on.
    coverage: 0..1, where the object is at all.
    body: 0..1, the part that bears wrinkles, folds, holes and inclusions.
    dark: optical density of black matter (pyrite, shadows), whatever the pigment.
    """

    density: Map
    coverage: Map
    body: Map
    dark: Map


@dataclass(frozen=True)
class Look:
    """How specimens of one kind vary beyond their shape; pairs are (low, high)."""

    maturity: tuple[float, float] = (0.05, 0.75)
    strength: tuple[float, float] = (0.35, 1.9)
    relief: tuple[float, float] = (0.12, 0.6)
    grain: tuple[float, float] = (0.05, 0.25)
    wrinkles: float = 0.0
    folds: float = 0.0
    damage: float = 0.0
    inclusions: float = 0.0
    ghosts: float = 0.0
    stains: float = 0.0
    elastic: float = 0.03
    squash: tuple[float, float] = (0.8, 1.0)
    halo_um: tuple[float, float] = field(default=(0.7, 2.2))


def weather(drawing: Drawing, canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    """Wrinkle, fold, tear, corrode and fill a drawing, in place, as its kind's look allows."""
    if rng.random() < look.wrinkles:
        spacing = rng.uniform(2.0, 6.0)
        crease = canvas.creases(rng, spacing, width=rng.uniform(0.08, 0.22))
        drawing.density += drawing.body * crease * np.float32(rng.uniform(0.3, 1.2))
    if look.folds > 0:
        for _ in range(rng.poisson(look.folds)):
            _fold(drawing, canvas, rng)
    if rng.random() < look.damage:
        _tear(drawing, canvas, rng)
    if rng.random() < look.damage * 0.5:
        _corrode(drawing, canvas, rng)
    _roughen(drawing, canvas, look, rng)
    if rng.random() < look.inclusions:
        _include_pyrite(drawing, canvas, rng)


def _roughen(drawing: Drawing, canvas: Canvas, look: Look, rng: np.random.Generator) -> None:
    grain = rng.uniform(*look.grain)
    fine = canvas.noise(rng, 1 / canvas.um(rng.uniform(0.9, 2.0)), octaves=2)
    broad = canvas.noise(rng, rng.uniform(1.5, 5), octaves=2)
    texture = 1 + np.float32(grain) * fine + np.float32(rng.uniform(0.04, 0.2)) * broad
    drawing.density *= np.clip(texture, 0.2, 2.5)


def _fold(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    """Lay a crescent of doubled wall over the body, with one crisp dark edge."""
    heading = rng.uniform(0, 2 * np.pi)
    middle = rng.normal(0, 0.22, 2)
    reach = rng.uniform(0.2, 0.7) * np.array([np.cos(heading), np.sin(heading)])
    sag = rng.uniform(-0.35, 0.35)
    width = rng.uniform(0.04, 0.22) * rng.choice([-1, 1])
    crisp = bend(middle - reach, middle + reach, sag, points=16)
    soft = bend(middle - reach, middle + reach, sag + width, points=16)
    crescent = canvas.fill([np.concatenate([crisp, soft[::-1]])])
    crescent = canvas.blur(crescent, canvas.um(0.4))
    edge = canvas.zeros()
    points = np.round(crisp * canvas.unit_px + [canvas.width / 2, canvas.height / 2]).astype(np.int32)
    cv2.polylines(edge, [points], False, 1.0, max(1, round(0.7 * canvas.px_per_um)), cv2.LINE_AA)
    edge = canvas.blur(edge, canvas.um(rng.uniform(0.2, 0.7)))
    amount = drawing.body * (rng.uniform(0.25, 0.9) * crescent + rng.uniform(0.3, 1.1) * edge)
    drawing.density += amount.astype(np.float32)


def _tear(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    """Cut a ragged side or wedge off the drawing."""
    heading = rng.uniform(0, 2 * np.pi)
    ragged = canvas.noise(rng, rng.uniform(3, 9), octaves=3) * np.float32(rng.uniform(0.01, 0.06))
    along = canvas.x * np.float32(np.cos(heading)) + canvas.y * np.float32(np.sin(heading)) + ragged
    if rng.random() < 0.5:
        kept = step(along, rng.uniform(-0.15, 0.45), -1.0)
        kept = step(kept, 0.0, 0.004 + 1.5 / canvas.unit_px)
    else:
        across = canvas.y * np.float32(np.cos(heading)) - canvas.x * np.float32(np.sin(heading)) + ragged
        wedge = along - np.float32(rng.uniform(0.6, 2.5)) * np.abs(across) - np.float32(rng.uniform(0.0, 0.3))
        kept = step(wedge, 2.0 / canvas.unit_px, 0.0)
    for part in (drawing.density, drawing.coverage, drawing.body, drawing.dark):
        part *= kept


def _corrode(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    pits = canvas.noise(rng, rng.uniform(4, 14), octaves=2)
    threshold = rng.uniform(1.3, 2.2)
    eaten = step(pits, threshold, threshold + 0.35) * drawing.body
    drawing.density *= 1 - np.float32(rng.uniform(0.5, 1)) * eaten


def _include_pyrite(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    count = int(rng.integers(1, 22))
    centre = rng.normal(0, 0.25, 2) if rng.random() < 0.5 else np.zeros(2)
    places = centre + rng.normal(0, rng.uniform(0.12, 0.4), (count, 2))
    radii = canvas.um(1.0) * rng.lognormal(-0.3, 0.55, count)
    radii = np.minimum(radii, 0.12)
    specks = canvas.discs(places, radii, rng.uniform(0.5, 1.0, count))
    drawing.dark += specks * (drawing.body > 0.5) * np.float32(rng.uniform(0.8, 3.0))


class Light(NamedTuple):
    """A developed specimen on a tight crop."""

    transmittance: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def develop(
    drawing: Drawing,
    canvas: Canvas,
    look: Look,
    rng: np.random.Generator,
    *,
    size_um: float,
    um_per_px: float,
) -> Light:
    """Pigment, turn, focus and scale a drawing so that its longest visible extent is size_um."""
    maturity = (
        float(np.clip(rng.beta(1.6, 1.8), 0, 1)) * (look.maturity[1] - look.maturity[0]) + look.maturity[0]
    )
    low, high = np.log(look.strength)
    strength = float(np.exp(low + (high - low) * rng.beta(2, 2)))
    ghost = rng.random() < look.ghosts
    if ghost:
        strength *= rng.uniform(0.1, 0.35)
        maturity *= 0.6
    pigment = _pigment(maturity, look, rng) * strength
    stack = cv2.merge([drawing.density, drawing.dark, drawing.coverage])
    turned, pose_scale = _pose(stack, float(pigment.max()), look, rng)
    density, dark, coverage = (np.ascontiguousarray(turned[..., i]) for i in range(3))

    px_per_um = canvas.px_per_um * pose_scale
    optical = density[..., None] * pigment.astype(np.float32)
    optical += dark[..., None] * _NEUTRAL_BLACK.astype(np.float32)
    light = np.exp(-optical)
    glare = np.float32(rng.uniform(0.015, 0.09))
    light = glare + (1 - glare) * light
    relief = rng.uniform(*look.relief) * (1.4 if ghost else 1.0)
    halo_px = rng.uniform(*look.halo_um) * px_per_um
    light *= _fringe(coverage, density, relief=relief, halo_px=halo_px, rng=rng)
    # Depth of field: most specimens are sharp, some lie above or below the plane of focus.
    blur_um = rng.uniform(0.12, 0.45) if rng.random() < 0.75 else rng.uniform(0.4, 1.3)
    blur_um = min(blur_um, 0.05 * size_um)
    light = blur_px(light, blur_um * px_per_um)
    coverage = blur_px(coverage, blur_um * px_per_um)
    return _scale(light, coverage, size_px=size_um / um_per_px)


def _pigment(maturity: float, look: Look, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    if rng.random() < look.stains:
        colour = _STAINS[rng.integers(len(_STAINS))] * rng.uniform(0.8, 1.2, 3)
        return np.asarray(colour / colour.max(), np.float64)
    colour = np.array([np.interp(maturity, _MATURITY, _ABSORBANCE[:, channel]) for channel in range(3)])
    colour[:2] *= rng.uniform(0.85, 1.25) * rng.uniform(0.92, 1.08, 2)
    # Older material is darker too, not only browner.
    return np.asarray(np.minimum(colour, 1.05) * (1 + 0.9 * maturity), np.float64)


def _pose(
    stack: npt.NDArray[np.float32], absorbance: float, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], float]:
    """The drawing turned, tilted and gently warped on a sheet that just holds it with its halo."""
    seen = (stack[..., 0] * absorbance + stack[..., 1] > _VISIBLE_LOSS) | (stack[..., 2] > 0.5)
    hull = _hull(seen)
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(*look.squash)
    tilt = rng.uniform(0, np.pi)
    turn = _rotation(angle) @ _rotation(tilt) @ np.diag([1.0, squash]) @ _rotation(-tilt)
    corners = hull @ turn.T
    margin = 0.04 * float(np.ptp(corners, axis=0).max()) + 6
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
    return np.asarray(turned, np.float32), 1.0


def _fringe(
    coverage: Map, density: Map, *, relief: float, halo_px: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Refraction as a factor on the light: bright just outside an edge, dark just inside."""
    phase = coverage + np.float32(0.25) * np.minimum(density, 3)
    wide = _blur_fast(phase, halo_px)
    fringe = wide - blur_px(phase, min(halo_px * 0.3, 2.0))
    gain = (relief * rng.uniform(0.85, 1.15, 3)).astype(np.float32)
    return np.clip(1 + fringe[..., None] * gain, 0.3, 1.22)


def _blur_fast(image: Map, sigma_px: float) -> Map:
    if sigma_px < 4:
        return blur_px(image, sigma_px)
    height, width = image.shape
    small = cv2.resize(image, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(_blur_fast(small, sigma_px / 2), (width, height)), np.float32)


def _scale(light: npt.NDArray[np.float32], coverage: Map, *, size_px: float) -> Light:
    scale = size_px / longest_extent_px(_seen(light, coverage))
    height, width = light.shape[:2]
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    light, coverage = (
        cv2.resize(light, shape, interpolation=how),
        cv2.resize(coverage, shape, interpolation=how),
    )
    light = np.clip(light, 0.0, 1.25)
    mask = _seen(light, coverage)
    if not mask.any():
        # Smaller than a pixel: what is left of it is its darkest pixel.
        mask.flat[int(light.min(2).argmin())] = True
    touched = mask | (np.abs(light - 1).max(2) > 0.006)
    left, top, width, height = cv2.boundingRect(touched.astype(np.uint8))
    inside = np.s_[top : top + height, left : left + width]
    light = cv2.copyMakeBorder(light[inside], 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(1.0, 1.0, 1.0))
    return Light(np.asarray(light, np.float32), np.pad(mask[inside], 2))


def _seen(light: npt.NDArray[np.float32], coverage: Map) -> npt.NDArray[np.bool_]:
    return np.asarray((light.min(2) < 1 - _VISIBLE_LOSS) | (coverage > 0.5), np.bool_)


def longest_extent_px(mask: npt.NDArray[np.bool_]) -> float:
    """The largest distance across the mask in any direction, in pixels."""
    hull = _hull(mask)
    return float(np.sqrt(np.square(hull[:, None] - hull[None]).sum(2).max())) + 1.0


def _hull(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    points = cv2.findNonZero(mask.astype(np.uint8))
    if points is None:
        return np.array([[mask.shape[1] / 2, mask.shape[0] / 2]])
    return cv2.convexHull(points)[:, 0].astype(np.float64)


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
