"""Painters of particles other than fossils: plant debris, resin, minerals, bubbles, fibres, specks."""

from __future__ import annotations

import cv2
import numpy as np

from fossilray.synthetic.painters.pollen import reticulum
from fossilray.synthetic.painters.shapes import (
    Canvas,
    Points,
    Stroke,
    bend,
    depth_px,
    dome,
    ring,
    step,
    wander,
)
from fossilray.synthetic.painters.specimen import Drawing

_REACH = 0.92


def amorphous_organic_matter(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a fluffy, irregular, translucent clot of granular organic matter."""
    aspect = rng.uniform(0.5, 1.0)
    far = np.sqrt(np.square(canvas.x) + np.square(canvas.y / np.float32(aspect)))
    lumps = canvas.noise(rng, rng.uniform(1.5, 4), octaves=5, gain=rng.uniform(0.45, 0.62))
    ragged = rng.uniform(0.08, 0.28)
    field = np.float32(0.62) - far + np.float32(ragged) * lumps
    field = np.minimum(field, (np.float32(_REACH) - np.maximum(far, 0)) * 2)
    _, parts = cv2.connectedComponents((field > 0).astype(np.uint8))
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1 if parts.any() else 0
    if rng.random() < 0.8:
        field = np.where((parts == largest) | (field <= 0), field, -1).astype(np.float32)
    softness = rng.uniform(0.02, 0.12)
    cover = step(field, 0.0, softness)
    clots = np.clip(
        1 + np.float32(rng.uniform(0.3, 0.7)) * canvas.noise(rng, rng.uniform(5, 12), octaves=3), 0.15, 3
    )
    density = cover * clots * (np.float32(0.5) + np.clip(field * np.float32(rng.uniform(0.5, 3)), 0, 1.5))
    if rng.random() < 0.4:
        holes = step(canvas.noise(rng, rng.uniform(3, 7), octaves=2), 0.9, 1.3)
        density *= 1 - np.float32(0.8) * holes
        cover = cover * (1 - holes)
    dark = canvas.zeros()
    if rng.random() < 0.25:
        dark = (
            step(canvas.noise(rng, rng.uniform(10, 25)), 1.9, 2.4) * cover * np.float32(rng.uniform(0.5, 2))
        )
    return Drawing(density, step(cover, 0.1, 0.6), cover, dark)


def wood_fragment(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a lath or splinter of wood with sharp corners; some have tracheids or pits."""
    cover = canvas.fill([_splinter(rng, slender=rng.uniform(0.12, 0.75))])
    density = np.float32(rng.uniform(0.7, 1.4)) * cover
    if rng.random() < 0.45:
        pitch = max(canvas.um(rng.uniform(3, 12)), 0.05)
        lines = np.sin(canvas.y * np.float32(2 * np.pi / pitch) + np.float32(1.2) * canvas.noise(rng, 1.5))
        density *= 1 + np.float32(rng.uniform(0.05, 0.25)) * np.clip(lines * 1.5, -1, 1)
    if rng.random() < 0.3:
        pitch = max(canvas.um(rng.uniform(4, 9)), 0.05)
        rows = np.arange(-0.8, 0.8, pitch * 1.2)
        columns = np.arange(-0.9, 0.9, pitch)
        positions = np.stack([v.ravel() for v in np.meshgrid(columns, rows)], 1)
        pits = canvas.discs(
            positions, np.full(len(positions), pitch * rng.uniform(0.18, 0.3)), np.ones(len(positions))
        )
        density *= 1 - np.float32(rng.uniform(0.3, 0.8)) * pits
    density += np.float32(rng.uniform(0, 0.5)) * dome(cover)
    grain = canvas.streaks(rng, rng.uniform(8, 30), stretch=int(rng.integers(5, 14)))
    density *= np.clip(1 + np.float32(rng.uniform(0.03, 0.2)) * grain, 0.2, 2)
    density *= np.clip(1 + np.float32(rng.uniform(0, 0.15)) * canvas.noise(rng, 1.5), 0.2, 2)
    return Drawing(density, cover, cover, canvas.zeros())


def black_fragment(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw an opaque fragment (inertinite), angular to rounded, equant to lath-shaped."""
    if rng.random() < 0.75:
        outline = _shard(rng, corners=int(rng.integers(5, 11)), slender=rng.uniform(0.35, 1.0))
    else:
        outline = ring(rng, radius=0.85, roughness=rng.uniform(0.02, 0.3), harmonics=9) * [
            1,
            rng.uniform(0.5, 1),
        ]
    cover = canvas.fill([outline])
    edge = np.float32(rng.uniform(0.0, 0.12)) * canvas.noise(rng, rng.uniform(4, 12), octaves=3)
    depth = depth_px((cover > 0.5).astype(np.uint8)) / np.float32(canvas.unit_px)
    cover = cover * step(depth + edge, 0.0, 0.01 + 1.0 / canvas.unit_px)
    thickness = np.clip(depth / np.float32(rng.uniform(0.01, 0.15)), 0.25, 1) * cover
    if rng.random() < 0.25:
        holes = step(canvas.noise(rng, rng.uniform(3, 9)), 1.3, 1.6)
        thickness, cover = thickness * (1 - holes), cover * (1 - holes)
    return Drawing(thickness, cover, cover, canvas.zeros())


def cuticle(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a pale sheet of leaf cuticle with torn edges and the pattern of its cells."""
    cover = canvas.fill([_shard(rng, corners=int(rng.integers(5, 10)), slender=rng.uniform(0.4, 1.0))])
    mesh = float(np.clip(canvas.um(rng.uniform(9, 22)), 0.06, 0.4))
    net = reticulum(canvas, rng, mesh)
    density = cover * (np.float32(rng.uniform(0.3, 0.7)) + np.float32(rng.uniform(0.2, 0.9)) * np.square(net))
    if rng.random() < 0.4:
        overlap = canvas.fill([_shard(rng, corners=6, slender=0.6) * 0.7 + rng.normal(0, 0.3, 2)])
        density *= 1 + np.float32(rng.uniform(0.4, 1.0)) * overlap
    return Drawing(density, cover, cover, canvas.zeros())


def membrane(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a scrap of thin film without structure."""
    outline = _shard(rng, corners=int(rng.integers(5, 12)), slender=rng.uniform(0.4, 1.0))
    cover = canvas.fill([outline])
    edge = np.float32(rng.uniform(0.01, 0.08)) * canvas.noise(rng, rng.uniform(3, 9), octaves=3)
    depth = depth_px((cover > 0.5).astype(np.uint8)) / np.float32(canvas.unit_px)
    cover = cover * step(depth + edge, 0.0, 0.01 + 1.0 / canvas.unit_px)
    density = cover * np.float32(rng.uniform(0.5, 0.9))
    return Drawing(density, cover, cover, canvas.zeros())


def resin_globule(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a smooth solid drop of resin, round or broken like glass."""
    if rng.random() < 0.6:
        outline = ring(rng, radius=0.86, roughness=rng.uniform(0.0, 0.06)) * [1, rng.uniform(0.6, 1)]
    else:
        outline = _shard(rng, corners=int(rng.integers(4, 8)), slender=rng.uniform(0.5, 1.0))
    cover = canvas.fill([outline])
    density = cover * np.float32(0.4) + dome(cover, power=rng.uniform(0.2, 0.8))
    rim = np.exp(-depth_px((cover > 0.5).astype(np.uint8)) / max(1.0, canvas.px_per_um * rng.uniform(0.6, 2)))
    density += cover * rim * np.float32(rng.uniform(0.2, 1.5))
    return Drawing(density, cover, cover, canvas.zeros())


def fibre(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a long, thin, curved fibre of even width with some kinks."""
    thick = float(np.clip(canvas.um(rng.uniform(1.5, 9.0)), 0.004, 0.05))
    start = np.array([-_REACH, 0.0])
    path = wander(
        rng, points=60, turn=rng.uniform(0.05, 0.8), start=start, heading=0.0, length=2 * _REACH * 0.96
    )
    knots = np.sort(rng.uniform(-1, 1, int(rng.integers(2, 9))))
    path[:, 1] += np.interp(path[:, 0], knots, rng.normal(0, rng.uniform(0, 0.05), len(knots)))
    path[:, 1] -= (path[:, 1].max() + path[:, 1].min()) / 2
    limit = 0.9 * canvas.height / canvas.width
    path[:, 1] *= min(1.0, limit / max(float(np.abs(path[:, 1]).max()), 1e-6))
    half = thick * np.linspace(1.0, rng.uniform(0.4, 1.0), 60) * (1 + 0.03 * rng.standard_normal(60))
    cover = canvas.strokes([Stroke(path, half)])
    core = np.minimum(depth_px((cover > 0.4).astype(np.uint8)) / max(1.0, thick * canvas.unit_px), 1)
    rim = np.float32(rng.uniform(-0.6, 0.6)) * core
    return Drawing(cover * (1 + rim), cover, cover, canvas.zeros())


def mineral_grain(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a clear angular grain, visible mainly by refraction at its edges and facets."""
    outline = _shard(rng, corners=int(rng.integers(4, 9)), slender=rng.uniform(0.25, 1.0), bow=0.03)
    cover = canvas.fill([outline])
    density = np.float32(rng.uniform(0.0, 0.35)) * cover
    # The outline is drawn by hand: total reflection takes light from a line along it.
    closed = np.concatenate([outline, outline[:1]])
    rim = canvas.strokes([Stroke(closed, np.full(len(closed), min(canvas.um(rng.uniform(0.3, 1.0)), 0.05)))])
    density += (
        rim
        * np.float32(rng.uniform(0.5, 3))
        * np.clip(0.6 + np.float32(0.6) * canvas.noise(rng, 1.5), 0, 1.5)
    )
    for _ in range(int(rng.integers(0, 5))):
        ends = outline[rng.choice(len(outline), 2, replace=False)] * rng.uniform(0.4, 1.0, (2, 1))
        facet = Stroke(bend(ends[0], ends[1], 0.0, points=4), np.full(4, canvas.um(0.3)))
        density += canvas.strokes([facet]) * cover * np.float32(rng.uniform(0.2, 1.2))
    return Drawing(density, cover, cover, canvas.zeros())


def air_bubble(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a bubble in the mounting medium: a dark ring around a bright middle."""
    cover = canvas.fill([ring(rng, radius=0.9, roughness=0.004)])
    far = np.sqrt(np.square(canvas.x) + np.square(canvas.y)) / np.float32(0.9)
    inner = 1 - rng.uniform(0.06, 0.5) * rng.uniform(0.4, 1)
    dark = step(far, inner - rng.uniform(0.03, 0.25), inner) * cover
    glint = np.exp(-np.square((far - (inner + 1) / 2) / np.float32(0.25 * (1 - inner))))
    dark *= 1 - np.float32(rng.choice([0.0, rng.uniform(0, 0.7)])) * glint
    if rng.random() < 0.3:
        dark += np.float32(0.3) * np.exp(-np.square((far - inner * 0.6) / 0.05)) * cover
    return Drawing(canvas.zeros(), cover, cover, np.asarray(dark * rng.uniform(0.6, 3.5), np.float32))


def speck(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a speck of dust or pyrite: a black grain, a framboid, or a small cluster."""
    count = int(rng.choice([1, 1, 1, 2, 4, 9, 20]))
    if count == 1:
        outline = _shard(rng, corners=int(rng.integers(5, 9)), slender=rng.uniform(0.5, 1.0))
        if rng.random() < 0.5:
            outline = ring(rng, radius=0.85, roughness=0.05)
        cover = canvas.fill([outline])
    else:
        radii = rng.uniform(0.12, 0.45, count) / count**0.25
        positions = np.clip(rng.normal(0, 0.35, (count, 2)), -0.6, 0.6)
        cover = canvas.discs(positions, np.minimum(radii, 0.3), np.ones(count))
    return Drawing(cover * (np.float32(0.6) + dome(cover)), cover, cover, canvas.zeros())


def _shard(rng: np.random.Generator, *, corners: int, slender: float, bow: float = 0.1) -> Points:
    """Return the outline of an irregular polygon with slightly bowed, uneven sides."""
    angle = (
        np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(-0.35, 0.35, corners) * 6 / corners
    )
    radius = 0.88 * rng.uniform(0.62, 1.0, corners)
    points = np.stack([radius * np.cos(angle), slender * radius * np.sin(angle)], 1)
    return _bowed(rng, points, rng.uniform(0.0, bow))


def _splinter(rng: np.random.Generator, *, slender: float) -> Points:
    """Return the outline of a long quadrangle with oblique or stepped ends."""
    half = _REACH * 0.95
    skew = rng.uniform(-0.25, 0.25, 4)
    points = [[-half + abs(skew[0]), -slender], [half - abs(skew[1]), -slender * rng.uniform(0.5, 1.0)]]
    points += [[half, slender * 0.2], [half - abs(skew[2]), slender * rng.uniform(0.5, 1.0)]]
    if rng.random() < 0.4:
        at = rng.uniform(-0.4, 0.5)
        points += [[at, slender * 0.9], [at - 0.02, slender * rng.uniform(0.4, 0.7)]]
    points += [[-half + abs(skew[3]), slender * rng.uniform(0.6, 0.9)], [-half, 0.0]]
    return _bowed(rng, np.array(points), rng.uniform(0.0, 0.04))


def _bowed(rng: np.random.Generator, points: Points, amount: float) -> Points:
    sides = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        side = bend(start, end, rng.normal(0, amount), points=9)[:-1]
        sides.append(side + rng.normal(0, amount * 0.12, side.shape))
    return np.clip(np.concatenate(sides), -0.96, 0.96)
