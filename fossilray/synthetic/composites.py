"""Labelled synthetic fields of view: objects are composed on a field by multiplication of light.

Every particle that could be cropped, fossil or debris, from `SMALLEST_PX` up, is labelled as an object. Dust out of
focus, grain and flecks of the medium are drawn too, without labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.crop_library import CropLibrary, Cutout
from fossilray.synthetic.painters.palynomorphs import KINDS, paint, typical_size_um
from fossilray.synthetic.scanner import camera

SMALLEST_PX = 5.0
"""Longest side of the smallest particle that bears a label."""
_SMALLEST_UM, _LARGEST_UM = 2.0, 500.0
_MOST_OBJECTS = 70
_MIN_VISIBLE_SHARE = 0.35
_MIN_CONTRAST = 0.012
"""Least mean change of light inside an outline that an eye would notice."""
_OPAQUE = 0.12
"""Transmittance below which an object hides what is under it."""
_INCLUSION_RATIO = 0.22
"""An object on a larger one is taken for a part of it below this ratio of their sizes."""
_ABUNDANCE = {
    "amorphous_organic_matter": 2.5,
    "wood_fragment": 2.0,
    "black_fragment": 2.0,
    "membrane": 2.2,
    "mineral_grain": 1.5,
    "fibre": 0.8,
    "air_bubble": 0.5,
    "speck": 0.8,
}
"""Mean abundance of a kind relative to the other kinds, over slides."""
_GHOST_SHARE = 0.07
"""Share of objects that are bleached to little more than their outline."""


@dataclass(frozen=True)
class Composite:
    """Labelled field of view.

    image: (H, W, 3) uint8 RGB. boxes: (n, 4) float32 x_min, y_min, x_max, y_max in px, tight around the visible
    pixels. kinds: of the n objects. touching: (n,) bool, the outline touches another object. sizes_um: (n,) float32,
    longest side of the box.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    kinds: tuple[str, ...]
    touching: NDArray[np.bool_]
    sizes_um: NDArray[np.float32]


@dataclass(frozen=True)
class _FieldObject:
    """Object on the field; left, top: corner of its sheet in px, possibly outside the field."""

    kind: str
    transmittance: NDArray[np.float32]
    mask: NDArray[np.bool_]
    left: int
    top: int


@dataclass(frozen=True)
class _Population:
    """Sizes, kinds and density of the objects of one slide."""

    median_um: float
    spread: float
    cover: float
    clumping: float
    real_share: float
    kinds: tuple[str, ...]
    weights: NDArray[np.float64]


def compose_field(
    rng: np.random.Generator, *, size_px: int, um_per_px: float, library: CropLibrary | None = None
) -> Composite:
    """Compose one field of size_px x size_px at um_per_px; with a library, some objects are real crops."""
    population = _draw_population(rng, size_px=size_px, um_per_px=um_per_px, library=library)
    items = _populate(rng, population, size_px=size_px, um_per_px=um_per_px, library=library)
    through = np.ones((size_px, size_px, 3), np.float32)
    cover = np.zeros((size_px, size_px), np.uint8)
    host_px = np.zeros((size_px, size_px), np.float32)
    for item in items:
        field, on_object = _windows(item, size_px)
        through[field] *= item.transmittance[on_object]
        cover[field] += item.mask[on_object]
        np.maximum(
            host_px[field], item.mask[on_object] * np.float32(max(item.mask.shape)), out=host_px[field]
        )
    labelled = [seen for item in items if (seen := _label(item, through, cover, host_px)) is not None]
    density = -np.log(np.clip(through, 0.004, 1.4)).reshape(-1, 3) @ camera.draw_stain(rng)
    light = camera.draw_field(rng, height=size_px, width=size_px) * np.exp(-density).reshape(through.shape)
    boxes = np.array([box for _, box, _ in labelled], np.float32).reshape(-1, 4)
    return Composite(
        image=camera.photograph(light.astype(np.float32), rng),
        boxes=boxes,
        kinds=tuple(kind for kind, _, _ in labelled),
        touching=np.array([touches for _, _, touches in labelled], bool),
        sizes_um=((boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) * um_per_px).astype(np.float32),
    )


def _draw_population(
    rng: np.random.Generator, *, size_px: int, um_per_px: float, library: CropLibrary | None
) -> _Population:
    """Draw a population. Sizes are drawn in pixels, so that the network sees all sizes at every scale."""
    median_px = np.exp(rng.uniform(np.log(9), np.log(90)))
    weights = np.array([_ABUNDANCE.get(kind, 1.0) for kind in KINDS])
    # Slides are not even mixtures: some kinds are abundant, most are absent.
    weights *= rng.gamma(0.6, 1.0, len(KINDS)) + 0.02
    return _Population(
        median_um=float(np.clip(median_px * um_per_px, 6, 260)),
        spread=rng.uniform(0.25, 0.9),
        cover=float(np.exp(rng.uniform(np.log(0.03), np.log(0.7)))) if rng.random() > 0.03 else 0.0,
        clumping=float(rng.choice([0.0, 0.15, 0.5, 0.9], p=[0.35, 0.3, 0.25, 0.1])),
        real_share=0.0 if library is None or not library.cutouts else float(rng.choice([0.0, 0.3, 0.7, 1.0])),
        kinds=KINDS,
        weights=weights / weights.sum(),
    )


def _populate(
    rng: np.random.Generator,
    population: _Population,
    *,
    size_px: int,
    um_per_px: float,
    library: CropLibrary | None,
) -> list[_FieldObject]:
    items: list[_FieldObject] = []
    cover = np.zeros((size_px, size_px), np.uint8)
    while cover.mean() < population.cover and len(items) < _MOST_OBJECTS:
        if library is not None and rng.random() < population.real_share:
            cutout = library.cutouts[rng.integers(len(library.cutouts))]
            size_um = _draw_size_um(rng, population, typical_um=(15.0, 140.0))
            chosen = _transform(cutout, rng, size_px=np.clip(size_um / um_per_px, 3, 0.9 * size_px))
        else:
            kind = str(rng.choice(population.kinds, p=population.weights))
            typical_um = typical_size_um(kind)
            size_um = _draw_size_um(rng, population, typical_um=typical_um)
            if kind not in ("fibre", "fungal_hypha"):
                size_um = min(size_um, 0.9 * size_px * um_per_px)
            size_um = min(size_um, 3 * size_px * um_per_px)
            painted = paint(kind, size_um=size_um, um_per_px=um_per_px, rng=rng)
            chosen = Cutout(kind, painted.transmittance, painted.mask)
        if rng.random() < _GHOST_SHARE:
            chosen = _bleached(chosen, rng)
        if rng.random() < 0.12:
            chosen = _out_of_focus(chosen, rng)
        item = _find_position(chosen, rng, cover, clumping=population.clumping)
        field, on_object = _windows(item, size_px)
        cover[field] |= item.mask[on_object]
        items.append(item)
    return items


def _draw_size_um(
    rng: np.random.Generator, population: _Population, *, typical_um: tuple[float, float]
) -> float:
    """Draw a longest side: 65 % from the sizes of this slide, the rest from the typical sizes of the kind."""
    if rng.random() < 0.65:
        size_um = population.median_um * np.exp(rng.normal(0, population.spread))
    else:
        size_um = np.exp(rng.uniform(*np.log(typical_um)))
    largest_um = max(_LARGEST_UM, typical_um[1])
    return float(np.clip(size_um, _SMALLEST_UM, largest_um))


def _transform(cutout: Cutout, rng: np.random.Generator, *, size_px: float) -> Cutout:
    """Rotate, mirror and scale a real cutout to size_px, and vary its pigment."""
    # Light and outline are transformed as one image of four channels.
    layers = np.dstack([cutout.transmittance, cutout.mask.astype(np.float32)])
    if rng.random() < 0.5:
        layers = layers[:, ::-1]
    layers = np.ascontiguousarray(layers)
    height, width = layers.shape[:2]
    scale = float(size_px / max(height, width))
    if scale < 0.5:
        # Shrink by area first: a rotation samples single points and would alias.
        reduced = (max(4, round(width * scale * 1.5)), max(4, round(height * scale * 1.5)))
        layers = np.asarray(cv2.resize(layers, reduced, interpolation=cv2.INTER_AREA), np.float32)
        scale *= height / layers.shape[0]
        height, width = layers.shape[:2]
    side = int(np.ceil(np.hypot(height, width) * scale)) + 4
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), rng.uniform(0, 360), scale)
    turn[:, 2] += np.array([side / 2 - width / 2, side / 2 - height / 2])
    turned = cv2.warpAffine(layers, turn, (side, side), borderValue=(1.0, 1.0, 1.0, 0.0))
    strength = np.exp(rng.normal(0, 0.35)) * rng.uniform(0.85, 1.18, 3)
    if rng.random() < 0.08:
        strength *= rng.uniform(0.15, 0.4)
    light = np.clip(turned[..., :3], 0.02, 1.3) ** strength.astype(np.float32)
    return Cutout(cutout.kind, np.asarray(light, np.float32), turned[..., 3] > 0.5)


def _bleached(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    """Return the cutout with most of its pigment removed; its edges and folds still refract light."""
    density = -np.log(np.clip(cutout.transmittance, 0.05, 1.3))
    size = max(2.0, 0.08 * max(cutout.mask.shape))
    edges = density - cv2.GaussianBlur(density, (0, 0), size)
    pale = rng.uniform(0.02, 0.15) * density + rng.uniform(0.1, 0.35) * edges.mean(2, keepdims=True)
    return Cutout(cutout.kind, np.exp(-pale).astype(np.float32), cutout.mask)


def _out_of_focus(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    """Return the cutout blurred, as above or below the plane of focus, on a larger sheet."""
    longest = max(cutout.mask.shape)
    sigma = rng.uniform(0.6, max(0.8, min(4.0, 0.07 * longest)))
    margin = int(np.ceil(2.5 * sigma))
    light = np.pad(cutout.transmittance, ((margin, margin), (margin, margin), (0, 0)), constant_values=1.0)
    mask = np.pad(cutout.mask, margin)
    blurred = cv2.GaussianBlur(light, (0, 0), sigma)
    return Cutout(cutout.kind, np.asarray(blurred, np.float32), mask)


def _find_position(
    cutout: Cutout, rng: np.random.Generator, cover: NDArray[np.uint8], *, clumping: float
) -> _FieldObject:
    """Return the object at a random position of the field, touching another one with probability `clumping`."""
    size_px = cover.shape[0]
    height, width = cutout.mask.shape

    def at(centre: NDArray[np.float64]) -> _FieldObject:
        left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
        return _FieldObject(cutout.kind, cutout.transmittance, cutout.mask, left, top)

    reach = 0.35 * min(max(height, width), size_px)
    anywhere = rng.uniform(-reach, size_px + reach, 2)
    if rng.random() < clumping and cover.any():
        occupied = np.argwhere(cover)
        target = occupied[rng.integers(len(occupied))][::-1].astype(np.float64)
        heading = rng.uniform(0, 2 * np.pi)
        step = np.array([np.cos(heading), np.sin(heading)])
        # Approach from outside until the two outlines meet, then overlap by up to a quarter.
        for distance in np.arange(1.5 * size_px, 0, -max(1.0, 0.04 * max(height, width))):
            item = at(target + distance * step)
            if _meets(item, cover):
                return at(target + (distance - rng.uniform(0, 0.25) * min(height, width)) * step)
        return at(target)
    tries = [at(anywhere)] + [at(rng.uniform(-reach, size_px + reach, 2)) for _ in range(6)]
    if rng.random() < 0.25:
        return tries[0]
    return next((item for item in tries if not _meets(item, cover)), tries[0])


def _meets(item: _FieldObject, cover: NDArray[np.uint8]) -> bool:
    field, on_object = _windows(item, cover.shape[0])
    return bool((cover[field] & item.mask[on_object]).any())


def _windows(item: _FieldObject, size_px: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the window of the field that an object covers, and the matching window of the object."""
    height, width = item.mask.shape
    left, top = max(item.left, 0), max(item.top, 0)
    right = max(left, min(item.left + width, size_px))
    bottom = max(top, min(item.top + height, size_px))
    field = (slice(top, bottom), slice(left, right))
    own_top, own_left = top - item.top, left - item.left
    on_object = (slice(own_top, own_top + bottom - top), slice(own_left, own_left + right - left))
    return field, on_object


def _label(
    item: _FieldObject,
    through: NDArray[np.float32],
    cover: NDArray[np.uint8],
    host_px: NDArray[np.float32],
) -> tuple[str, tuple[float, float, float, float], bool] | None:
    """Return kind, visible box in px and whether the object touches another; None if it is not visible enough."""
    size_px = cover.shape[0]
    field, on_object = _windows(item, size_px)
    mask, light = item.mask[on_object], item.transmittance[on_object]
    if not mask.any():
        return None
    others = through[field].max(2) / np.maximum(light.max(2), 0.004)
    visible = mask & (others > _OPAQUE)
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    if len(rows) == 0:
        return None
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    longest = max(height, width)
    whole_enough = visible.sum() >= _MIN_VISIBLE_SHARE * item.mask.sum() or longest > 0.2 * size_px
    contrast = float(np.abs(light[visible] - 1).max(1).mean())
    if (host_px[field][mask] * _INCLUSION_RATIO > max(item.mask.shape)).mean() > 0.7:
        return None
    if longest < SMALLEST_PX or not whole_enough or contrast < _MIN_CONTRAST:
        return None
    grown = cv2.dilate(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)
    touching = bool((cover[field][grown] > mask[grown]).any())
    left, top = field[1].start + columns[0], field[0].start + rows[0]
    return item.kind, (float(left), float(top), float(left + width), float(top + height)), touching
