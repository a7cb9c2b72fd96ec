"""Drawing of one specimen, variation within its kind, and wear."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from fossilray.synthetic.painters.shapes import Canvas, Map, bend, step


@dataclass
class Drawing:
    """Drawing of one specimen, as maps of the canvas size.

    density: thickness times pigment, 1 = an ordinary wall seen face on.
    coverage: 0..1, area of the object.
    body: 0..1, area that can have wrinkles, folds, holes and inclusions.
    dark: optical density of black matter (pyrite, shadows), independent of the pigment.
    """

    density: Map
    coverage: Map
    body: Map
    dark: Map


@dataclass(frozen=True)
class Appearance:
    """Variation of the specimens of one kind apart from their shape; pairs are (low, high)."""

    maturity: tuple[float, float] = (0.05, 0.75)
    strength: tuple[float, float] = (0.45, 2.4)
    relief: tuple[float, float] = (0.12, 0.5)
    grain: tuple[float, float] = (0.03, 0.18)
    wrinkles: float = 0.0
    folds: float = 0.0
    damage: float = 0.0
    inclusions: float = 0.0
    ghosts: float = 0.0
    stains: float = 0.0
    elastic: float = 0.03
    squash: tuple[float, float] = (0.8, 1.0)
    halo_um: tuple[float, float] = field(default=(0.7, 2.2))


def degrade(drawing: Drawing, canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    """Modify a drawing by wrinkles, folds, tears, corrosion, grain and pyrite, as `look` allows."""
    if rng.random() < look.wrinkles:
        style = rng.random()
        if style < 0.45:
            relief = canvas.relief(rng, rng.uniform(1.2, 4.5)) * np.float32(1.5)
        elif style < 0.75:
            relief = canvas.crumple(rng, int(rng.integers(5, 40)))
        else:
            relief = canvas.creases(rng, rng.uniform(2.0, 6.0), width=rng.uniform(0.05, 0.16))
        drawing.density += drawing.body * np.maximum(relief * np.float32(rng.uniform(0.2, 0.9)), -0.5)
    if look.folds > 0:
        for _ in range(rng.poisson(look.folds)):
            _fold(drawing, canvas, rng)
    if rng.random() < look.damage:
        _tear(drawing, canvas, rng)
    if rng.random() < look.damage * 0.35:
        _corrode(drawing, canvas, rng)
    _roughen(drawing, canvas, look, rng)
    if rng.random() < look.inclusions:
        _include_pyrite(drawing, canvas, rng)


def _roughen(drawing: Drawing, canvas: Canvas, look: Appearance, rng: np.random.Generator) -> None:
    grain = rng.uniform(*look.grain)
    fine = canvas.noise(rng, 1 / canvas.um(rng.uniform(0.6, 1.4)))
    broad = canvas.noise(rng, rng.uniform(1.5, 5), octaves=2)
    texture = 1 + np.float32(grain) * fine + np.float32(rng.uniform(0.02, 0.12)) * broad
    drawing.density *= np.clip(texture, 0.2, 2.5)


def _fold(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a crescent of doubled wall over the body, with one crisp dark edge."""
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
    ragged = canvas.noise(rng, rng.uniform(1.5, 6), octaves=3, gain=0.4) * np.float32(rng.uniform(0.03, 0.16))
    along = canvas.x * np.float32(np.cos(heading)) + canvas.y * np.float32(np.sin(heading)) + ragged
    if rng.random() < 0.65:
        limit = rng.uniform(0.0, 0.65)
        kept = step(along, limit + 2.0 / canvas.unit_px, limit)
    else:
        across = canvas.y * np.float32(np.cos(heading)) - canvas.x * np.float32(np.sin(heading)) + ragged
        wedge = (
            along
            - np.float32(rng.uniform(0.5, 3.5)) * np.abs(across + np.float32(rng.normal(0, 0.2)) * along**2)
            - np.float32(rng.uniform(0.0, 0.3))
        )
        kept = step(wedge, 2.0 / canvas.unit_px, 0.0)
    for part in (drawing.density, drawing.coverage, drawing.body, drawing.dark):
        np.multiply(part, kept, out=part)


def _corrode(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    pits = canvas.noise(rng, rng.uniform(4, 14), octaves=2)
    threshold = rng.uniform(1.3, 2.2)
    eaten = step(pits, threshold, threshold + 0.35) * drawing.body
    drawing.density *= 1 - np.float32(rng.uniform(0.5, 1)) * eaten


def _include_pyrite(drawing: Drawing, canvas: Canvas, rng: np.random.Generator) -> None:
    count = int(rng.integers(1, 22))
    centre = rng.normal(0, 0.25, 2) if rng.random() < 0.5 else np.zeros(2)
    positions = centre + rng.normal(0, rng.uniform(0.12, 0.4), (count, 2))
    radii = canvas.um(1.0) * rng.lognormal(-0.3, 0.55, count)
    radii = np.minimum(radii, 0.07)
    specks = canvas.discs(positions, radii, rng.uniform(0.5, 1.0, count))
    drawing.dark += specks * (drawing.body > 0.5) * np.float32(rng.uniform(0.8, 3.0))
