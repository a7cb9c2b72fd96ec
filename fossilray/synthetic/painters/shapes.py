"""Geometry and texture on a canvas: outlines, shells, strokes, noise, cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
"""A canvas-sized (height, width) float32 map."""
Points = npt.NDArray[np.float64]
"""(n, 2) points x, y in canvas units: the width spans -1..1, y points down."""

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Stroke:
    """Tapered line: a centreline with a half-width (canvas units) at each point; weight: its coverage, 0..1."""

    centreline: Points
    half_widths: npt.NDArray[np.float64]
    weight: float = 1.0


@dataclass(frozen=True)
class Canvas:
    """Drawing surface of height x width px; its width spans the canvas units -1..1."""

    height: int
    width: int
    px_per_um: float

    @property
    def unit_px(self) -> float:
        """Pixels in one canvas unit."""
        return self.width / 2

    def um(self, length_um: float) -> float:
        """Convert a length in um to canvas units."""
        return length_um * self.px_per_um / self.unit_px

    @cached_property
    def x(self) -> Map:
        """Column coordinate of every pixel, (1, width)."""
        return ((np.arange(self.width, dtype=np.float32) + 0.5) / self.unit_px - 1)[None, :]

    @cached_property
    def y(self) -> Map:
        """Row coordinate of every pixel, (height, 1)."""
        rows = np.arange(self.height, dtype=np.float32) + 0.5 - self.height / 2
        return np.asarray(rows / self.unit_px, np.float32)[:, None]

    def zeros(self) -> Map:
        """Return a map of zeros."""
        return np.zeros((self.height, self.width), np.float32)

    def _fixed_point(self, points: Points) -> npt.NDArray[np.int32]:
        centre = np.array([self.width / 2 - 0.5, self.height / 2 - 0.5])
        fixed = (points * self.unit_px + centre) * (1 << _SUBPIXEL_BITS)
        return np.asarray(np.round(np.clip(fixed, -(2**27), 2**27)), np.int32)

    def fill(self, outlines: Iterable[Points]) -> Map:
        """Return the coverage (0..1) of filled closed outlines; it is 1 also where they overlap."""
        image = np.zeros((self.height, self.width), np.uint8)
        for outline in outlines:
            cv2.fillPoly(image, [self._fixed_point(outline)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        return _unit(image)

    def strokes(self, strokes: Iterable[Stroke], *, hollow: float = 0.0) -> Map:
        """Return the coverage (0..weight) of tapered strokes; hollow: relative loss inside a stroke against its rim."""
        image = np.zeros((self.height, self.width), np.uint8)
        by_length: dict[int, list[Stroke]] = {}
        for stroke in strokes:
            by_length.setdefault(len(stroke.centreline), []).append(stroke)
        for alike in by_length.values():
            half_px = np.array([stroke.half_widths.max() for stroke in alike]) * self.unit_px
            # The rasteriser draws at least about one pixel: thinner lines become paler instead.
            weight = np.minimum([stroke.weight for stroke in alike], 1) * np.minimum(1, 0.3 + half_px)
            polygons = self._fixed_point(_ribbons(alike))
            for polygon, half, value in zip(polygons, half_px.tolist(), (255 * weight).tolist(), strict=True):
                inner = value * (1 - hollow) if half > 1.6 else value
                cv2.fillPoly(image, [polygon], inner, cv2.LINE_AA, _SUBPIXEL_BITS)
                if inner < value:
                    rim_px = max(1, round(half * 0.35))
                    cv2.polylines(image, [polygon], True, value, rim_px, cv2.LINE_AA, _SUBPIXEL_BITS)
        return _unit(image)

    def discs(self, centres: Points, radii: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> Map:
        """Return the coverage of filled discs, each with its weight (0..1)."""
        image = np.zeros((self.height, self.width), np.uint8)
        for centre, radius, weight in zip(self._fixed_point(centres), radii, weights, strict=True):
            radius_fixed = max(4, round(float(radius) * self.unit_px * (1 << _SUBPIXEL_BITS)))
            cv2.circle(
                image,
                (int(centre[0]), int(centre[1])),
                radius_fixed,
                255 * float(weight),
                -1,
                cv2.LINE_AA,
                _SUBPIXEL_BITS,
            )
        return _unit(image)

    def noise(self, rng: np.random.Generator, per_unit: float, *, octaves: int = 1, gain: float = 0.5) -> Map:
        """Return smooth noise of zero mean and about unit deviation, with per_unit bumps per canvas unit."""
        total = self.zeros()
        weight, power = 1.0, 0.0
        for octave in range(octaves):
            spacing_px = max(1.0, self.unit_px / (per_unit * 2.0**octave))
            total += weight * self._bumps(rng, spacing_px)
            power += weight**2
            weight *= gain
        return np.asarray(total / np.sqrt(power), np.float32)

    def _bumps(self, rng: np.random.Generator, spacing_px: float) -> Map:
        if spacing_px <= 1.5:
            return rng.standard_normal((self.height, self.width), dtype=np.float32)
        rows, columns = int(self.height / spacing_px) + 4, int(self.width / spacing_px) + 4
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        bumps: npt.NDArray[np.floating | np.integer] = coarse
        if spacing_px > 8:
            # Cubic interpolation to a spacing of 4 px, then linear, which is close enough and faster.
            finer = (int(columns * spacing_px / 4), int(rows * spacing_px / 4))
            bumps = cv2.resize(coarse, finer, interpolation=cv2.INTER_CUBIC)
        size = (int(columns * spacing_px), int(rows * spacing_px))
        bumps = cv2.resize(bumps, size, interpolation=cv2.INTER_LINEAR if spacing_px > 8 else cv2.INTER_CUBIC)
        # A random position in the sheet, so that the bumps share no grid with the canvas.
        top, left = (int(v) for v in rng.uniform(0, 1.5 * spacing_px, 2))
        return np.asarray(
            bumps[top : top + self.height, left : left + self.width] * np.float32(1.35), np.float32
        )

    def streaks(self, rng: np.random.Generator, per_unit: float, *, stretch: int) -> Map:
        """Return noise stretched by `stretch` along the rows, like the grain of wood."""
        narrow = Canvas(self.height, max(4, self.width // stretch), self.px_per_um)
        scale = narrow.unit_px / self.unit_px
        noise = narrow.noise(rng, per_unit * scale, octaves=2)
        return np.asarray(
            cv2.resize(noise, (self.width, self.height), interpolation=cv2.INTER_LINEAR), np.float32
        )

    def crumple(self, rng: np.random.Generator, facets: int) -> Map:
        """Return the relief of crumpled film, about -1..1: tilted facets that meet in crisp dark creases."""
        reach = np.array([1.0, self.height / self.width])
        border, labels = self.cells(rng.uniform(-1, 1, (facets, 2)) * reach)
        level, slope_x, slope_y = rng.normal(0, 1, (3, int(labels.max()) + 1)).astype(np.float32)
        shade = np.float32(0.25) * level[labels] + np.float32(0.4) * (
            slope_x[labels] * self.x + slope_y[labels] * self.y
        )
        line_px = max(0.7, self.px_per_um * rng.uniform(0.3, 0.7))
        crease = np.exp(-border / np.float32(line_px)) * np.clip(self.noise(rng, 2.5) + 0.3, 0, 1.3)
        relief = blur_px(np.asarray(shade, np.float32), 1.0 + 0.3 * line_px) + crease
        return np.asarray(self.warp(rng, relief, amplitude=rng.uniform(0.02, 0.07)), np.float32)

    def relief(self, rng: np.random.Generator, per_unit: float) -> Map:
        """Return the extra path (0..2) of light through a collapsed wall: longest where the wall is steep."""
        folded = np.abs(self.noise(rng, per_unit)) + 0.4 * np.abs(self.noise(rng, 2.3 * per_unit))
        height = self.warp(rng, np.asarray(folded, np.float32), amplitude=0.06)
        height = blur_px(height, 0.6 + 0.25 * self.px_per_um)
        slope = cv2.magnitude(cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1))
        # Only slopes clearly above the mean count: a slightly inclined wall is as thin as a flat one.
        steepness = slope / np.float32(float(slope.mean()) + 1e-6)
        return np.asarray(np.clip((steepness - np.float32(1.1)) * np.float32(0.9), 0, 2), np.float32)

    def warp(self, rng: np.random.Generator, image: Map, *, amplitude: float, per_unit: float = 2.5) -> Map:
        """Return the map warped smoothly by about `amplitude` canvas units."""
        shift = np.float32(amplitude * self.unit_px)
        map_x = np.arange(self.width, dtype=np.float32)[None, :] + shift * self.noise(rng, per_unit)
        map_y = np.arange(self.height, dtype=np.float32)[:, None] + shift * self.noise(rng, per_unit)
        bent = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(bent, np.float32)

    def creases(self, rng: np.random.Generator, per_unit: float, *, width: float = 0.12) -> Map:
        """Return a net of thin, winding, interrupted lines (0..1), as on a wrinkled membrane."""
        line = self.noise(rng, per_unit, octaves=2, gain=0.35)
        presence = self.noise(rng, per_unit * 0.9)
        net = np.exp(-np.square(line / width)) * np.clip(presence * 0.8 + 0.35, 0, 1)
        return np.asarray(net, np.float32)

    def cells(self, seeds: Points) -> tuple[Map, npt.NDArray[np.int32]]:
        """Return the distance in px to the nearest border of the seeds' Voronoi cells, and the labels of the cells."""
        field = np.ones((self.height, self.width), np.uint8)
        inside = np.round(seeds * self.unit_px + [self.width / 2 - 0.5, self.height / 2 - 0.5]).astype(int)
        keep = (inside >= 0).all(1) & (inside[:, 0] < self.width) & (inside[:, 1] < self.height)
        field[inside[keep, 1], inside[keep, 0]] = 0
        _, labels = cv2.distanceTransformWithLabels(field, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        interior = np.ones_like(field)
        interior[:, 1:] &= labels[:, 1:] == labels[:, :-1]
        interior[1:, :] &= labels[1:, :] == labels[:-1, :]
        return depth_px(interior), np.asarray(labels, np.int32)

    def blur(self, image: Map, sigma: float) -> Map:
        """Return the map blurred by a Gaussian of sigma canvas units."""
        return blur_px(image, sigma * self.unit_px)


def _unit(image: npt.NDArray[np.uint8]) -> Map:
    return image.astype(np.float32) * np.float32(1 / 255)


def blur_px(image: npt.NDArray[np.float32], sigma_px: float) -> npt.NDArray[np.float32]:
    """Return the image blurred by a Gaussian of sigma_px; unchanged if that is under 0.2 px."""
    if sigma_px < 0.2:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE), np.float32)


def depth_px(inside: npt.NDArray[np.uint8]) -> Map:
    """Return the distance in px from every non-zero pixel to the nearest zero pixel."""
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)


def step(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.float32]:
    """Return a smooth ramp from 0 at low to 1 at high (low may exceed high)."""
    ramp = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def shell(canvas: Canvas, cover: Map, *, wall: float, flatness: float) -> Map:
    """Return the optical thickness of a hollow body: 1 in the middle, more at its limb.

    wall: thickness of the wall relative to the body's radius. flatness: 0 for the chord through a spherical shell,
    1 for a flat disc.
    """
    depth = blur_px(depth_px((cover > 0.5).astype(np.uint8)), 0.8)
    share = np.minimum(depth / max(1.0, float(depth.max())), 1)
    chord = _half_chord(share) - (1 - wall) * _half_chord(np.maximum((share - wall) / (1 - wall), 0))
    relative = np.maximum(chord / wall, 0.2)
    return np.asarray(cover * relative ** (1 - flatness), np.float32)


def dome(cover: Map, *, power: float = 0.5) -> Map:
    """Return the thickness of a solid body: 0 at its outline, 1 at its deepest point."""
    depth = depth_px((cover > 0.5).astype(np.uint8))
    share = np.minimum((depth + 0.5) / max(1.0, float(depth.max())), 1)
    return np.asarray(cover * _half_chord(share) ** (2 * power), np.float32)


def _half_chord(share: Map) -> Map:
    return np.asarray(np.sqrt(np.maximum(share * (2 - share), 0)), np.float32)


def _ribbons(strokes: list[Stroke]) -> npt.NDArray[np.float64]:
    """Return the outlines (n, 2 k, 2) of n strokes of k points each."""
    line = np.stack([stroke.centreline for stroke in strokes])
    half = np.stack([stroke.half_widths for stroke in strokes])
    tangent = np.empty_like(line)
    tangent[:, 1:-1] = line[:, 2:] - line[:, :-2]
    tangent[:, 0], tangent[:, -1] = line[:, 1] - line[:, 0], line[:, -1] - line[:, -2]
    tangent /= np.sqrt(np.square(tangent).sum(2, keepdims=True)) + 1e-9
    offset = np.stack([-tangent[..., 1], tangent[..., 0]], 2) * half[..., None]
    return np.concatenate([line + offset, (line - offset)[:, ::-1]], 1)


def bend(start: Points, end: Points, sag: float, *, points: int = 7, wave: float = 0.0) -> Points:
    """Return a curve from start to end, bent sideways by `sag` and waved by `wave`, both relative to its length."""
    along = np.linspace(0, 1, points)[:, None]
    chord = end - start
    side = np.array([-chord[1], chord[0]])
    return np.asarray(
        start + along * chord + (sag * np.sin(along * np.pi) + wave * np.sin(along * 2 * np.pi)) * side,
        np.float64,
    )


def wander(
    rng: np.random.Generator, *, points: int, turn: float, start: Points, heading: float, length: float
) -> Points:
    """Return a path of the given length whose heading drifts by at most `turn` radians."""
    drift = np.cumsum(np.cumsum(rng.normal(0, 1, points)))
    drift = turn * drift / (np.abs(drift).max() + 1e-9)
    steps = length / points * np.stack([np.cos(heading + drift), np.sin(heading + drift)], 1)
    return np.asarray(start + np.cumsum(steps, axis=0) - steps[0], np.float64)


def ring(
    rng: np.random.Generator, *, radius: float, roughness: float, harmonics: int = 6, points: int = 120
) -> Points:
    """Return a closed, irregular circle; roughness: scale of the relative deviation of its radius."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(2, 2 + harmonics)
    amplitude = rng.normal(0, 1, harmonics) / order
    phase = rng.uniform(0, 2 * np.pi, harmonics)
    wave = (amplitude[:, None] * np.cos(order[:, None] * angle + phase[:, None])).sum(0)
    return polar(angle, radius * (1 + roughness * wave))


def polar(angle: npt.NDArray[np.float64], radius: npt.NDArray[np.float64]) -> Points:
    """Return the points (n, 2) at the given angles (from +x towards +y) and radii."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def smooth_closed(points: Points, *, rounds: int = 2) -> Points:
    """Return a closed outline with its corners cut (Chaikin); each round doubles the number of points."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = cut.reshape(-1, 2)
    return points


def sphere_points(rng: np.random.Generator, count: int, *, jitter: float = 0.5) -> npt.NDArray[np.float64]:
    """Return (count, 3) directions spread evenly over a sphere, jittered by `jitter` of their spacing and rotated."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    azimuth = np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - z**2)
    even = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], 1)
    even += rng.normal(0, jitter / np.sqrt(count), even.shape)
    turn, _ = np.linalg.qr(rng.normal(0, 1, (3, 3)))
    turned = even @ turn
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True), np.float64)
