"""Painters of pollen, spores and the other organic-walled fossils that palynologists count."""

from __future__ import annotations

import numpy as np

from fossilray.synthetic.painters.shapes import (
    Canvas,
    Map,
    Points,
    Stroke,
    bend,
    depth_px,
    dome,
    polar,
    ring,
    shell,
    sphere_points,
    step,
    wander,
)
from fossilray.synthetic.painters.specimen import Drawing

_REACH = 0.92


def bisaccate_pollen(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a corpus between two reticulate air sacs, in polar to lateral view."""
    corpus_size = np.array([rng.uniform(0.45, 0.7), rng.uniform(0.42, 0.68)])
    sac = np.array([rng.uniform(0.3, 0.46), corpus_size[1] * rng.uniform(0.75, 1.15)])
    droop = rng.uniform(0, 0.1) if rng.random() < 0.7 else rng.uniform(0.1, 0.35)
    offset = _REACH - sac[0]
    corpus = canvas.fill([ring(rng, radius=1, roughness=0.05) * corpus_size])
    within = depth_px((corpus > 0.5).astype(np.uint8)) / np.float32(canvas.unit_px)
    without = depth_px((corpus <= 0.5).astype(np.uint8)) / np.float32(canvas.unit_px)
    density = np.float32(rng.uniform(0.6, 1.1)) * shell(
        canvas, corpus, wall=0.12, flatness=rng.uniform(0.5, 0.9)
    )
    coverage = corpus.copy()
    mesh = max(canvas.um(rng.uniform(1.4, 3.6)), 0.03)
    net = reticulum(canvas, rng, mesh) * np.float32(rng.uniform(0.2, 0.6))
    behind = np.float32(rng.uniform(0.1, 0.5))
    root_width = np.float32(rng.uniform(0.03, 0.12))
    root_strength = np.float32(rng.uniform(0.3, 1.3))
    for side in (-1, 1):
        position = np.array([side * offset, droop * rng.uniform(0.8, 1.2)])
        outline = _turned(ring(rng, radius=1, roughness=0.07) * sac, side * -0.5 * droop) + position
        bladder = canvas.fill([outline])
        film = np.float32(rng.uniform(0.6, 1.0)) * shell(
            canvas, bladder, wall=0.1, flatness=rng.uniform(0.35, 0.7)
        )
        film += bladder * net
        density += film * (1 - (1 - behind) * corpus)
        # The wall of a sac folds into a thick crescent along its root on the corpus.
        distance = np.where(corpus > 0.5, within, without * np.float32(2))
        density += bladder * root_strength * np.exp(-np.square(distance / root_width))
        coverage = np.maximum(coverage, bladder)
    density += corpus * reticulum(canvas, rng, mesh * 0.6) * np.float32(0.2)
    if rng.random() < 0.6:
        furrow = np.exp(-np.square(canvas.x / np.float32(rng.uniform(0.05, 0.14)))) * corpus
        density *= 1 - np.float32(rng.uniform(0.15, 0.5)) * furrow
    return Drawing(density, coverage, coverage, canvas.zeros())


def tricolpate_pollen(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a grain with three furrows, some with pores: lobed in polar view, striped in equatorial view."""
    density: Map
    if rng.random() < 0.45:
        angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        lobes = np.abs(np.cos(1.5 * (angle + rng.uniform(0, 6)))) ** rng.uniform(0.3, 0.9)
        depth = rng.uniform(0.08, 0.35)
        body = canvas.fill([polar(angle, _REACH * 0.95 * (1 - depth + depth * lobes))])
        density = _exine(canvas, rng, body)
        notches = canvas.zeros()
    else:
        stretch = rng.uniform(0.6, 1.0)
        body = canvas.fill([ring(rng, radius=_REACH * 0.96, roughness=0.02) * [stretch, 1.0]])
        density = _exine(canvas, rng, body)
        strokes = []
        for position in rng.uniform(-0.5, 0.1) + np.array([0.0, rng.uniform(0.3, 0.7)]):
            end = np.array([position * stretch * 0.5, 0.75])
            line = bend(end * [1, -1], end, 0.25 * position, points=14)
            strokes.append(
                Stroke(line, np.sin(np.linspace(0.05, np.pi - 0.05, 14)) * rng.uniform(0.015, 0.05))
            )
        notches = canvas.strokes(strokes)
        pores = canvas.discs(np.array([[0.0, 0.0]]), np.array([rng.uniform(0.05, 0.14)]), np.array([1.0]))
        notches = np.maximum(notches, pores * np.float32(rng.random() < 0.4))
    edge = np.clip(canvas.blur(notches, canvas.um(0.7)) - notches * np.float32(0.8), 0, 1)
    density = np.maximum(density * (1 - np.float32(0.6) * notches) + 2 * edge * body, 0)
    density += body * _ornament(canvas, rng)
    return _with_spines(canvas, rng, Drawing(density, body.copy(), body, canvas.zeros()), chance=0.15)


def triporate_pollen(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a rounded triangular (or round) grain with a thickened pore at each of 3 to 6 corners."""
    count = int(rng.choice([3, 3, 3, 3, 4, 5, 6]))
    corners = np.arange(count) * 2 * np.pi / count + rng.normal(0, 0.06, count)
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    pointed = rng.uniform(0.0, 0.16) * (3 / count) ** 2.5
    radius = 0.84 * (1 - pointed + pointed * np.cos(count * angle))
    body = canvas.fill([polar(angle, radius)])
    density = _exine(canvas, rng, body)
    reach = 0.84
    positions = polar(corners, np.full(count, reach * 0.98))
    size = rng.uniform(0.06, 0.16)
    swelling = canvas.discs(positions, np.full(count, size * 1.6), np.ones(count)) * (body > 0.3)
    opening = canvas.discs(positions * 1.03, np.full(count, size * 0.6), np.ones(count))
    collar = np.maximum(swelling - opening, 0)
    density += canvas.blur(collar, canvas.um(0.4)) * np.float32(rng.uniform(0.6, 2.0))
    density *= 1 - np.float32(0.75) * opening
    density += body * _ornament(canvas, rng) * np.float32(0.6)
    return Drawing(density, np.maximum(body * (1 - opening), collar), body, canvas.zeros())


def monolete_spore(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a bean-shaped spore with one nearly straight scar."""
    stretch = rng.uniform(0.5, 0.75)
    outline = ring(rng, radius=_REACH * 0.96, roughness=0.02) * [1.0, stretch]
    outline[:, 1] += rng.uniform(0.0, 0.25) * (outline[:, 0] ** 2 - 0.4)
    body = canvas.fill([outline])
    density = _exine(canvas, rng, body)
    half = rng.uniform(0.25, 0.55)
    sag = rng.uniform(-0.1, 0.1)
    scar = bend(np.array([-half, 0.0]), np.array([half, 0.0]), sag, points=12)
    density += body * _scar(canvas, rng, [scar])
    density += body * _ornament(canvas, rng)
    return _with_spines(canvas, rng, Drawing(density, body.copy(), body, canvas.zeros()), chance=0.15)


def trilete_spore(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a round to triangular spore with a Y-shaped scar."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    corner = rng.choice([0.0, rng.uniform(0.04, 0.14)])
    concave = corner * rng.uniform(-0.3, 0.15)
    wave = corner * np.cos(3 * angle) + concave * np.cos(6 * angle)
    radius = 0.82 * (1 + wave) * np.linalg.norm(ring(rng, radius=1.0, roughness=0.015, points=180), axis=1)
    outline = polar(angle, radius * _REACH / max(radius.max(), 0.9))
    body = canvas.fill([outline])
    density = _exine(canvas, rng, body)
    length = rng.uniform(0.35, 0.8)
    centre = rng.normal(0, 0.05, 2)
    rays = []
    for turn in np.arange(3) * 2 * np.pi / 3 + rng.normal(0, 0.08, 3):
        end = centre + length * rng.uniform(0.85, 1.1) * np.array([np.cos(turn), np.sin(turn)])
        rays.append(bend(centre, end, rng.normal(0, 0.05), points=8))
    density += body * _scar(canvas, rng, rays)
    density += body * _ornament(canvas, rng)
    coverage = body.copy()
    if rng.random() < 0.25:
        flange = canvas.fill([outline * rng.uniform(1.05, 1.12)])
        density += flange * np.float32(0.4)
        coverage = np.maximum(body, flange)
    return _with_spines(canvas, rng, Drawing(density, coverage, body, canvas.zeros()), chance=0.25)


def azolla_massula(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a dark clump of rounded chambers with long anchor-tipped hairs."""
    spread = rng.uniform(0.25, 0.4)
    count = int(rng.integers(5, 14))
    positions = rng.normal(0, spread * 0.55, (count, 2))
    positions = np.clip(positions, -0.5, 0.5)
    density, coverage = canvas.zeros(), canvas.zeros()
    for position in positions:
        chamber = canvas.fill([ring(rng, radius=spread * rng.uniform(0.3, 0.75), roughness=0.12) + position])
        density *= 1 - np.float32(rng.uniform(0.3, 0.7)) * chamber
        density += np.float32(rng.uniform(0.5, 0.9)) * shell(canvas, chamber, wall=0.15, flatness=0.3)
        coverage = np.maximum(coverage, chamber)
    density *= 1 + np.float32(0.3) * canvas.noise(rng, 8, octaves=2)
    hairs: list[Stroke] = []
    thick = max(canvas.um(rng.uniform(0.5, 1.1)), 0.006)
    heading = rng.uniform(0, 2 * np.pi)
    lopsided = rng.uniform(0.6, 3.0)
    for _ in range(int(rng.integers(8, 34))):
        way = heading + rng.normal(0, lopsided)
        start = positions[rng.integers(count)]
        path = wander(rng, points=10, turn=0.5, start=start, heading=way, length=rng.uniform(0.3, 0.85))
        path = np.clip(path, -0.95, 0.95)
        hairs.append(Stroke(path, thick * np.array([0.7, 0.8, 0.9, 1, 1, 1, 1, 1.1, 1.4, 0.8])))
    strands = canvas.strokes(hairs, hollow=rng.uniform(0.1, 0.4))
    density = np.minimum(density, 2.6) + strands * np.float32(rng.uniform(0.7, 1.1))
    return Drawing(density, np.maximum(coverage, strands), coverage, canvas.zeros())


def foram_lining(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw the organic lining of a foraminifer: a spiral or a row of growing chambers."""
    count = int(rng.integers(5, 15))
    coiled = rng.random() < 0.75
    growth = rng.uniform(1.07, 1.22)
    radius, turn, way = 1.0, 0.0, rng.choice([-1, 1])
    centres, radii = [], []
    straight = 0.0
    for chamber in range(count):
        if coiled:
            arm = radius * rng.uniform(1.0, 1.15)
            centres.append([arm * np.cos(turn), way * arm * np.sin(turn)])
            turn += rng.uniform(0.75, 1.0)
        else:
            centres.append([straight, (chamber % 2 - 0.5) * radius * rng.uniform(0.4, 1.3)])
            straight += radius * rng.uniform(0.8, 1.3)
        radii.append(radius)
        radius *= growth
    middle, size = np.array(centres), np.array(radii)
    low, high = (middle - size[:, None]).min(0), (middle + size[:, None]).max(0)
    scale = 2 * _REACH / float((high - low).max())
    middle, size = (middle - (low + high) / 2) * scale, size * scale
    density, coverage = canvas.zeros(), canvas.zeros()
    hiding = rng.uniform(0.5, 0.95)
    for position, reach in zip(middle, size, strict=True):
        chamber_map = canvas.fill([ring(rng, radius=reach * 0.97, roughness=0.06) + position])
        density *= 1 - np.float32(hiding) * chamber_map
        density += np.float32(0.8) * shell(canvas, chamber_map, wall=0.1, flatness=0.3)
        coverage = np.maximum(coverage, chamber_map)
    return Drawing(np.minimum(density, 2.8), coverage, coverage, canvas.zeros())


def fungal_hypha(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a branching, septate tube."""
    thick = float(np.clip(canvas.um(rng.uniform(1.0, 3.0)), 0.012, 0.05))
    start = np.array([-_REACH * 0.93, rng.uniform(-0.1, 0.1)])
    trunk = wander(rng, points=40, turn=0.7, start=start, heading=rng.normal(0, 0.1), length=1.75)
    trunk[:, 1] -= trunk[:, 1].mean()
    paths = [trunk]
    for _ in range(rng.poisson(1.3)):
        root = trunk[rng.integers(5, 35)]
        way = rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
        paths.append(wander(rng, points=20, turn=0.8, start=root, heading=way, length=rng.uniform(0.2, 0.6)))
    strokes, septa = [], []
    for path in paths:
        half = thick * (1 + 0.12 * rng.standard_normal(len(path)).cumsum() / 4)
        strokes.append(Stroke(path, np.clip(half, thick * 0.6, thick * 1.5)))
        for at in range(2, len(path) - 1, int(rng.integers(3, 8))):
            tangent = path[at + 1] - path[at]
            across = np.array([-tangent[1], tangent[0]]) / (np.linalg.norm(tangent) + 1e-9) * thick
            septa.append(Stroke(np.array([path[at] - across, path[at] + across]), np.full(2, canvas.um(0.4))))
    tubes = canvas.strokes(strokes)
    tube_wall = shell(canvas, tubes, wall=0.2, flatness=0.35)
    density = tube_wall + canvas.strokes(septa) * tubes * np.float32(0.8)
    return Drawing(density, tubes.copy(), tubes, canvas.zeros())


def fungal_spore(canvas: Canvas, rng: np.random.Generator) -> Drawing:
    """Draw a dark oval spore of one to eight cells, sometimes with an attachment scar."""
    cells = int(rng.choice([1, 1, 2, 2, 3, 4, 6, 8]))
    slender = float(np.clip(rng.uniform(0.35, 0.8) * (1.0 if cells < 3 else 0.65), 0.2, 0.9))
    along = np.linspace(-1, 1, 80)
    half = slender * (1 - np.abs(along) ** rng.uniform(1.8, 3.0)) ** 0.6
    half *= 1 + rng.uniform(-0.25, 0.25) * along
    if cells > 1:
        half *= 1 - rng.uniform(0.0, 0.12) * np.cos((along + 1) * np.pi * cells)
    outline = np.concatenate([np.stack([along, -half], 1), np.stack([along, half], 1)[::-1]]) * _REACH * 0.97
    body = canvas.fill([outline])
    density = shell(canvas, body, wall=rng.uniform(0.1, 0.25), flatness=rng.uniform(0.3, 0.7))
    density += np.float32(rng.uniform(0, 0.6)) * dome(body)
    walls = []
    for position in np.linspace(-1, 1, cells + 1)[1:-1] * _REACH * 0.95:
        walls.append(
            Stroke(np.array([[position, -1.0], [position, 1.0]]), np.full(2, rng.uniform(0.012, 0.03)))
        )
    if walls:
        density += canvas.strokes(walls) * body * np.float32(1.3)
    elif rng.random() < 0.5:
        end = np.array([[_REACH * 0.9, 0.0]])
        density *= 1 - np.float32(0.6) * canvas.discs(
            end, np.array([rng.uniform(0.06, 0.16)]), np.array([1.0])
        )
    return Drawing(density, body.copy(), body, canvas.zeros())


def reticulum(canvas: Canvas, rng: np.random.Generator, mesh: float) -> Map:
    """Return a net of ridges (0..1): jittered hexagons of about `mesh` canvas units."""
    columns = np.arange(-1.1, 1.1, mesh)
    height = canvas.height / canvas.width
    rows = np.arange(-1.1 * height, 1.1 * height, mesh * 0.87)
    grid_x, grid_y = np.meshgrid(columns, rows)
    grid_x[::2] += mesh / 2
    seeds = np.stack([grid_x.ravel(), grid_y.ravel()], 1)
    border, _ = canvas.cells(seeds + rng.normal(0, mesh * 0.2, seeds.shape))
    return np.asarray(np.exp(-border / np.float32(max(0.8, mesh * canvas.unit_px * 0.16))), np.float32)


def _exine(canvas: Canvas, rng: np.random.Generator, body: Map) -> Map:
    """Return the density of a grain's wall in optical section: an outer and an inner line, and a paler middle."""
    wall = float(np.clip(canvas.um(rng.uniform(0.9, 2.8)), 0.03, 0.16))
    density = shell(canvas, body, wall=min(0.3, wall * 1.2), flatness=rng.uniform(0.1, 0.65))
    if rng.random() < 0.6:
        depth = depth_px((body > 0.5).astype(np.uint8))
        line_px = max(0.8, canvas.px_per_um * 0.45)
        inner = np.exp(-np.square((depth - wall * canvas.unit_px) / line_px))
        gap = np.exp(-np.square((depth - 0.5 * wall * canvas.unit_px) / line_px))
        density += body * (np.float32(rng.uniform(0.3, 1.2)) * inner - np.float32(0.35) * gap)
    if rng.random() < 0.35:
        contents = canvas.fill([ring(rng, radius=rng.uniform(0.4, 0.7), roughness=0.1)]) * body
        density += np.float32(rng.uniform(0.2, 0.8)) * canvas.blur(contents, 0.06)
    return np.maximum(density, 0)


def _ornament(canvas: Canvas, rng: np.random.Generator) -> Map:
    style = rng.choice(["psilate", "granulate", "reticulate", "rugulate"])
    strength = np.float32(rng.uniform(0.2, 0.8))
    pitch = float(np.clip(canvas.um(rng.uniform(1.0, 3.5)), 0.03, 0.2))
    if style == "granulate":
        return strength * step(canvas.noise(rng, 1 / pitch), 0.3, 1.3)
    if style == "reticulate":
        return strength * reticulum(canvas, rng, pitch)
    if style == "rugulate":
        return strength * canvas.creases(rng, 0.5 / pitch, width=0.3)
    return canvas.zeros()


def _scar(canvas: Canvas, rng: np.random.Generator, lines: list[Points]) -> Map:
    """Return the density of a dehiscence scar: a thin dark (or open, pale) line between broad lips."""
    thin = canvas.strokes([Stroke(line, np.linspace(1.0, 0.4, len(line)) * canvas.um(0.4)) for line in lines])
    lip = np.clip(canvas.um(rng.uniform(1.0, 2.6)), 0.02, 0.09)
    broad = canvas.strokes([Stroke(line, np.linspace(1.0, 0.3, len(line)) * lip) for line in lines])
    lips = canvas.blur(broad, canvas.um(0.3)) * np.float32(rng.uniform(0.2, 0.9))
    return lips + thin * np.float32(rng.choice([-0.8, 1.0]))


def _with_spines(canvas: Canvas, rng: np.random.Generator, drawing: Drawing, *, chance: float) -> Drawing:
    """Add spines with probability `chance`, in profile on the limb and as dots on the face, and return the drawing."""
    if rng.random() > chance:
        return drawing
    count, length = int(rng.integers(40, 130)), rng.uniform(0.05, 0.13)
    edge = depth_px((drawing.body > 0.5).astype(np.uint8))
    inside = np.argwhere((edge > 0) & (edge < 2.5))
    if not len(inside):
        return drawing
    rim = inside[rng.integers(0, len(inside), count // 2)][:, ::-1]
    roots = (rim - [canvas.width / 2, canvas.height / 2]) / canvas.unit_px
    thick = min(canvas.um(0.7), 0.03)
    strokes = []
    for root in roots:
        way = root / (np.linalg.norm(root) + 1e-9)
        line = np.array([root, root + way * length * 0.5, np.clip(root + way * length, -0.98, 0.98)])
        strokes.append(Stroke(line, np.array([1.3, 0.8, 0.2]) * thick))
    spines = canvas.strokes(strokes)
    faces = sphere_points(rng, count)
    dots = canvas.discs(faces[:, :2] * 0.8, np.full(count, thick * 1.1), np.where(faces[:, 2] > 0, 0.8, 0.35))
    drawing.density += spines + dots * drawing.body
    drawing.coverage = np.maximum(drawing.coverage, spines)
    return drawing


def _turned(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cosine, sine], [-sine, cosine]]), np.float64)
