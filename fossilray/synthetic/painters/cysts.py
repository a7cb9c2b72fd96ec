"""Painters of dinoflagellate cysts and acritarchs; each draws one specimen on its canvas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fossilray.synthetic.painters.shapes import (
    Canvas,
    Map,
    Points,
    Stroke,
    bend,
    polar,
    ring,
    shell,
    smooth_closed,
    sphere_points,
    step,
)
from fossilray.synthetic.painters.specimen import Drawing

_REACH = 0.92
"""How far a drawing may come from the canvas's middle."""


def proximate_cyst(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a cyst without processes: sutures between plates, areolate to smooth wall, often an archeopyle."""
    radius = _REACH / 1.06
    body = canvas.fill([ring(rng, radius=radius, roughness=rng.uniform(0.01, 0.1))])
    wall = float(np.clip(canvas.um(rng.uniform(0.8, 2.4)) / radius, 0.02, 0.18))
    density = shell(canvas, body, wall=wall, flatness=rng.uniform(0.1, 0.65))
    if rng.random() < 0.6:
        density += body * _sutures(canvas, rng, radius, rng.uniform(0.3, 1.0))
    if rng.random() < 0.6:
        density += (
            body * canvas.creases(rng, rng.uniform(4, 9), width=0.15) * np.float32(rng.uniform(0.2, 0.9))
        )
    if rng.random() < 0.35:
        density += body * _granules(canvas, rng, radius)
    coverage = body
    if rng.random() < 0.45:
        spikes = _fringe_of_spines(canvas, rng, radius, length=rng.uniform(0.02, 0.06))
        density += spikes * np.float32(0.8)
        coverage = np.maximum(body, spikes)
    if rng.random() < 0.6:
        density *= _archeopyle(canvas, rng, radius)
    return Drawing(density, coverage, body, canvas.zeros())


def chorate_cyst(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a cyst with processes: simple, furcate, trumpet-shaped, fingered, hairy, or joined by trabeculae."""
    style = str(rng.choice(["simple", "furcate", "trumpet", "fingered", "trabeculate", "hairy"]))
    length = {
        "simple": rng.uniform(0.2, 0.6),
        "furcate": rng.uniform(0.25, 0.65),
        "trumpet": rng.uniform(0.4, 0.95),
        "fingered": rng.uniform(0.6, 1.2),
        "trabeculate": rng.uniform(0.35, 0.75),
        "hairy": rng.uniform(0.2, 0.5),
    }[style]
    radius = _REACH / (1 + length * 1.08)
    body = canvas.fill([ring(rng, radius=radius, roughness=rng.uniform(0.02, 0.14))])
    wall = float(np.clip(canvas.um(rng.uniform(0.5, 1.6)) / radius, 0.025, 0.2))
    density = shell(canvas, body, wall=wall, flatness=rng.uniform(0.1, 0.65))
    if rng.random() < 0.4:
        density += body * _granules(canvas, rng, radius)
    if rng.random() < 0.3:
        density += body * _sutures(canvas, rng, radius, rng.uniform(0.2, 0.6))
    front, back = _processes(canvas, rng, style, radius, length)
    hollow = rng.uniform(0.2, 0.6) if style in ("trumpet", "fingered") else 0.0
    near, far = canvas.strokes(front, hollow=hollow), canvas.strokes(back, hollow=hollow)
    boldness = np.float32(rng.uniform(0.7, 1.5))
    density += boldness * (near + np.float32(0.6) * far)
    coverage = np.maximum(body, np.maximum(near, far))
    if style == "trabeculate" and rng.random() < 0.7:
        veil = canvas.fill([ring(rng, radius=radius * (1 + length * 0.9), roughness=0.08)])
        mesh, _ = canvas.cells(rng.uniform(-1, 1, (int(rng.integers(200, 900)), 2)))
        lace = np.exp(-mesh / np.float32(max(0.7, 0.3 * canvas.px_per_um))) * veil
        lace *= step(canvas.noise(rng, 3, octaves=2), rng.uniform(-0.6, 0.5), 1.2)
        density += np.float32(rng.uniform(0.3, 0.9)) * lace + np.float32(0.06) * veil
    if rng.random() < 0.45:
        density *= _archeopyle(canvas, rng, radius)
    return Drawing(density, coverage, body, canvas.zeros())


def cavate_cyst(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a peridinioid cyst: an inner body in a paler outer wall that is extended into horns."""
    rhomboid = rng.random() < 0.4
    outline = _peridinioid(rng, rhomboid=rhomboid)
    scale = _REACH / np.abs(outline).max() / 1.04
    outline = outline * scale
    outer = canvas.fill([outline])
    pale = rng.uniform(0.25, 0.8)
    density = np.float32(pale) * shell(canvas, outer, wall=0.06, flatness=rng.uniform(0.3, 0.7))
    inner_radius = scale * rng.uniform(0.55, 0.92)
    shift = np.array([rng.normal(0, 0.03), rng.normal(0.03, 0.04)])
    inner = canvas.fill([ring(rng, radius=inner_radius, roughness=0.04) + shift]) * outer
    inner_wall = rng.choice([0.05, 0.09, 0.14])
    if rng.random() < 0.75:
        density += np.float32(rng.uniform(0.3, 1.4)) * shell(
            canvas, inner, wall=float(inner_wall), flatness=rng.uniform(0.1, 0.6)
        )
    coverage = outer
    if rhomboid or rng.random() < 0.25:
        spines = canvas.strokes(_surface_spines(canvas, rng, outline, scale))
        density += spines * np.float32(rng.uniform(0.5, 1.0))
        coverage = np.maximum(outer, spines)
    if rng.random() < 0.5:
        density += outer * canvas.strokes(_cingulum(canvas, rng, scale)) * np.float32(rng.uniform(0.3, 0.8))
    if rng.random() < 0.5:
        density *= _archeopyle(canvas, rng, inner_radius, upwards=True)
    return Drawing(density, coverage, outer, _brown_bodies(canvas, rng, inner_radius))


def elongate_cyst(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a pale, thin-walled spindle with a long horn at each end, often with an inner body in the middle."""
    along = np.linspace(-1, 1, 90)
    body_half = rng.uniform(0.28, 0.55)
    width = rng.uniform(0.14, 0.26)
    swell = np.exp(-(np.abs(along / body_half) ** rng.uniform(1.8, 3.2)))
    horn = rng.uniform(0.012, 0.04, 2)
    tips = np.where(along < 0, horn[0], horn[1]) * (1 - np.abs(along) ** 6)
    half = width * swell + tips + width * 0.25 * np.clip(1 - np.abs(along), 0, 1)
    if rng.random() < 0.35:
        half = half * np.clip((rng.uniform(0.55, 0.8) - along) * 40, 0, 1)
    axis = rng.uniform(-0.14, 0.14) * (1 - along**2) + rng.uniform(-0.06, 0.06) * np.sin(along * np.pi)
    upper = np.stack([along * _REACH, axis - half], 1)
    lower = np.stack([along * _REACH, axis + half], 1)
    keep = half > 0
    outer = canvas.fill([np.concatenate([upper[keep], lower[keep][::-1]])])
    density = np.float32(rng.uniform(0.5, 1.0)) * shell(
        canvas, outer, wall=0.08, flatness=rng.uniform(0.35, 0.7)
    )
    if rng.random() < 0.65:
        ellipse = ring(rng, radius=1.0, roughness=0.03) * [body_half * rng.uniform(0.75, 1.0), width * 0.95]
        inner = canvas.fill([ellipse + np.array([0, float(np.interp(0, along, axis))])]) * outer
        density += np.float32(rng.uniform(0.3, 0.9)) * shell(canvas, inner, wall=0.08, flatness=0.5)
    return Drawing(density, outer.copy(), outer, canvas.zeros())


def acritarch(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a small vesicle: smooth, spiny, flanged by a thin equatorial wing, or with a few horns."""
    style = str(rng.choice(["smooth", "spiny", "flanged", "horned"]))
    if style == "horned":
        corners = int(rng.integers(3, 6))
        angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        lobes = np.maximum(0, np.cos((angle + rng.uniform(0, 6)) * corners / 1.0)) ** rng.uniform(4, 14)
        outline = polar(angle, 0.42 + lobes * rng.uniform(0.35, 0.5))
        body = canvas.fill([outline])
        density = shell(canvas, body, wall=0.12, flatness=0.4)
        return Drawing(density, body.copy(), body, canvas.zeros())
    length = {"smooth": 0.02, "spiny": rng.uniform(0.12, 0.7), "flanged": rng.uniform(0.3, 0.9)}[style]
    radius = _REACH / (1 + length)
    body = canvas.fill([ring(rng, radius=radius, roughness=rng.uniform(0.01, 0.05))])
    density = shell(canvas, body, wall=rng.uniform(0.06, 0.3), flatness=rng.uniform(0.1, 0.6))
    coverage = body
    if style == "spiny":
        front, back = _processes(canvas, rng, "simple", radius, length)
        hairs = canvas.strokes(front + back)
        density += np.float32(0.9) * hairs
        coverage = np.maximum(body, hairs)
    elif style == "flanged":
        wing = canvas.fill([ring(rng, radius=radius * (1 + length), roughness=0.04)])
        density += wing * np.float32(rng.uniform(0.15, 0.45))
        coverage = wing
    return Drawing(density, coverage, body, canvas.zeros())


def _processes(
    canvas: Canvas, rng: np.random.Generator, style: str, radius: float, length: float
) -> tuple[list[Stroke], list[Stroke]]:
    """Return the strokes of the processes on the near and on the far side of a body."""
    count = {
        "simple": int(rng.integers(24, 90)),
        "furcate": int(rng.integers(18, 44)),
        "trumpet": int(rng.integers(12, 30)),
        "fingered": int(rng.integers(9, 18)),
        "trabeculate": int(rng.integers(16, 36)),
        "hairy": int(rng.integers(70, 160)),
    }[style]
    thick_um = {"trumpet": (0.4, 1.2), "fingered": (0.4, 1.0), "hairy": (0.2, 0.45)}.get(style, (0.3, 0.8))
    thick = min(canvas.um(rng.uniform(*thick_um)), 0.09 * radius)
    crooked = rng.uniform(0.02, 0.2)
    directions = sphere_points(rng, count, jitter=0.7)
    near: list[Stroke] = []
    far: list[Stroke] = []
    tips: list[Points] = []
    for direction in directions:
        side = near if direction[2] > 0 else far
        reach = radius * (1 + length * rng.uniform(0.75, 1.08))
        root, tip = direction[:2] * radius * 0.97, direction[:2] * reach
        tip = tip + rng.normal(0, 0.04, 2) * length * radius
        line = bend(root, tip, rng.normal(0, crooked), wave=rng.normal(0, 0.5 * crooked))
        taper = np.linspace(1.0, 0.35, len(line)) * thick
        if style == "trumpet":
            taper = thick * (0.9 - 0.4 * np.sin(np.linspace(0, np.pi, len(line))))
            taper[-2:] = thick * np.array([1.0, rng.uniform(1.5, 2.6)])
        taper[0] = thick * rng.uniform(1.1, 2.2)
        side.append(Stroke(line, taper))
        heading = float(np.arctan2(*(tip - root)[::-1])) if direction[2] ** 2 < 0.97 else rng.uniform(0, 6.3)
        side.extend(_tip(rng, style, tip, heading=heading, thick=thick, length=length * radius))
        tips.append(tip)
    if style == "trabeculate":
        far.extend(_trabeculae(rng, np.array(tips), thick, radius))
    return near, far


def _tip(
    rng: np.random.Generator, style: str, tip: Points, *, heading: float, thick: float, length: float
) -> list[Stroke]:
    branches = {
        "furcate": 2 + int(rng.random() < 0.4),
        "fingered": int(rng.integers(4, 9)),
        "trumpet": 3,
    }.get(style, 0)
    spread = {"furcate": 0.8, "fingered": 1.3, "trumpet": 0.9}.get(style, 0.0)
    reach = {"furcate": 0.25, "fingered": 0.26, "trumpet": 0.1}.get(style, 0.0) * length
    out: list[Stroke] = []
    for turn in np.linspace(-spread, spread, branches) if branches else []:
        angle = heading + turn + rng.normal(0, 0.2)
        end = tip + reach * rng.uniform(0.6, 1.2) * np.array([np.cos(angle), np.sin(angle)])
        line = bend(tip, end, float(np.sign(turn)) * -0.2, points=4)
        out.append(Stroke(line, np.linspace(0.6, 0.3, 4) * thick))
    return out


def _trabeculae(rng: np.random.Generator, tips: Points, thick: float, radius: float) -> list[Stroke]:
    """Return threads between neighbouring tips."""
    out: list[Stroke] = []
    for start in tips:
        gap = np.linalg.norm(tips - start, axis=1)
        for neighbour in np.argsort(gap)[1:4]:
            if gap[neighbour] < radius and rng.random() < 0.8:
                line = bend(start, tips[neighbour], rng.normal(0, 0.2))
                out.append(Stroke(line, np.full(len(line), thick * 0.45)))
    return out


def _sutures(canvas: Canvas, rng: np.random.Generator, radius: float, strength: float) -> Map:
    """Return the density of the borders between plates, with near and far side superimposed."""
    directions = sphere_points(rng, int(rng.integers(18, 40)), jitter=0.9)
    total = canvas.zeros()
    for side, weight in ((directions[:, 2] > -0.1, 1.0), (directions[:, 2] < -0.3, 0.4)):
        border, _ = canvas.cells(directions[side, :2] * radius)
        border = canvas.warp(rng, border, amplitude=0.03)
        ridge = np.exp(-np.square(border / max(1.0, canvas.px_per_um * 0.6)))
        total += np.float32(strength * weight) * ridge.astype(np.float32)
    return total


def _granules(canvas: Canvas, rng: np.random.Generator, radius: float) -> Map:
    spacing = canvas.um(rng.uniform(0.7, 1.5))
    grain = canvas.noise(rng, 1 / max(spacing, 0.03))
    return step(grain, 0.5, 1.6) * np.float32(rng.uniform(0.15, 0.5))


def _fringe_of_spines(canvas: Canvas, rng: np.random.Generator, radius: float, *, length: float) -> Map:
    count = int(rng.integers(40, 130))
    thick = min(canvas.um(0.5), 0.03)
    strokes = []
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.02, count):
        way = np.array([np.cos(angle), np.sin(angle)])
        line = bend(way * radius * 0.98, way * radius * (1 + length * rng.uniform(0.6, 1.2)), 0.0, points=3)
        strokes.append(Stroke(line, np.array([thick, thick * 0.7, thick * 0.3])))
    return canvas.strokes(strokes)


def _archeopyle(canvas: Canvas, rng: np.random.Generator, radius: float, *, upwards: bool = False) -> Map:
    """Return a factor on density: a polygonal opening with one wall missing, and its crisp border."""
    corners = int(rng.integers(4, 8))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    size = radius * rng.uniform(0.22, 0.5)
    heading = -np.pi / 2 if upwards else rng.uniform(0, 2 * np.pi)
    centre = radius * rng.uniform(0.1, 0.75) * np.array([np.cos(heading), np.sin(heading)])
    outline = smooth_closed(polar(angle, size * rng.uniform(0.75, 1.15, corners)), rounds=1) + centre
    hole = canvas.fill([outline])
    closed = np.concatenate([outline, outline[:1]])
    border = canvas.strokes([Stroke(closed, np.full(len(closed), canvas.um(0.45)))])
    return 1 - np.float32(rng.uniform(0.3, 0.6)) * hole + np.float32(rng.uniform(0.2, 0.7)) * border


def _peridinioid(rng: np.random.Generator, *, rhomboid: bool) -> Points:
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    if rhomboid:
        power = rng.uniform(1.15, 1.6)
        radius = (np.abs(np.cos(angle)) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
        heights = {-90: 0.12, 90: 0.1, 0: 0.12, 180: 0.12, 60: 0.06}
    else:
        power = rng.uniform(1.9, 2.6)
        stretch = rng.uniform(0.8, 1.05)
        radius = (np.abs(np.cos(angle) / stretch) ** power + np.abs(np.sin(angle)) ** power) ** (-1 / power)
        left, right = rng.uniform(0.0, 0.45, 2)
        heights = {-90: rng.uniform(0.1, 0.5), 58: left, 122: right}
    wave = ring(rng, radius=1.0, roughness=0.03, points=240)
    radius = radius * np.linalg.norm(wave, axis=1)
    for degrees, height in heights.items():
        offset = np.angle(np.exp(1j * (angle - np.radians(degrees + rng.normal(0, 4)))))
        breadth = rng.uniform(0.13, 0.3)
        radius = radius + height * rng.uniform(0.7, 1.3) * np.exp(-((np.abs(offset) / breadth) ** 1.3))
    return polar(angle, radius)


def _surface_spines(canvas: Canvas, rng: np.random.Generator, outline: Points, scale: float) -> list[Stroke]:
    length = scale * rng.uniform(0.05, 0.14)
    thick = min(canvas.um(0.4), 0.02)
    roots: npt.NDArray[np.float64] = outline[rng.integers(0, len(outline), 70)]
    inner = outline[rng.integers(0, len(outline), 80)] * np.sqrt(rng.uniform(0, 0.9, (80, 1)))
    strokes = []
    for root in np.concatenate([roots, inner]):
        way = root / (np.linalg.norm(root) + 1e-6) + rng.normal(0, 0.4, 2)
        reach = length * rng.uniform(0.5, 1.1)
        line = bend(root, np.clip(root + reach * way, -0.97, 0.97), rng.normal(0, 0.15), points=4)
        strokes.append(Stroke(line, np.array([1.2, 0.8, 0.6, 0.7]) * thick))
    return strokes


def _cingulum(canvas: Canvas, rng: np.random.Generator, scale: float) -> list[Stroke]:
    sag, gap = rng.uniform(-0.15, 0.15), scale * rng.uniform(0.06, 0.12)
    half = np.full(12, min(canvas.um(0.5), 0.02))
    edges = [np.array([[-1.1 * scale, y], [1.1 * scale, y]]) for y in (-gap, gap)]
    return [Stroke(bend(edge[0], edge[1], sag, points=12), half) for edge in edges]


def _brown_bodies(canvas: Canvas, rng: np.random.Generator, radius: float) -> Map:
    """Return the density of dark remains of the cell's contents; zero in 75 % of the specimens."""
    if rng.random() > 0.25:
        return canvas.zeros()
    count = int(rng.integers(1, 5))
    positions = rng.normal(0, radius * 0.3, (count, 2))
    blobs = canvas.discs(positions, radius * rng.uniform(0.05, 0.14, count), rng.uniform(0.4, 0.9, count))
    return canvas.blur(blobs, canvas.um(0.5)) * np.float32(rng.uniform(0.4, 1.5))
