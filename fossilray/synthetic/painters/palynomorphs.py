"""Palynomorphs and palynological debris, painted as transmittance.

An object is composed on a slide by multiplication: `image * transmittance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fossilray.synthetic.painters import cysts, debris, pollen
from fossilray.synthetic.painters.light import develop
from fossilray.synthetic.painters.shapes import Canvas
from fossilray.synthetic.painters.specimen import Appearance, Drawing, degrade


@dataclass(frozen=True)
class PaintedSpecimen:
    """Painted object.

    transmittance: (h, w, 3) float32, 1 = clear, up to 1.25 in the bright fringes of refraction. mask: (h, w) bool,
    its visible pixels. The outermost two pixels of the crop are clear on every side.
    """

    kind: str
    transmittance: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Kind:
    painter: Callable[[Canvas, np.random.Generator], Drawing]
    typical_size_um: tuple[float, float]
    look: Appearance
    aspect: float = 1.0  # canvas height over width


_CYST = Appearance(wrinkles=0.75, folds=1.2, elastic=0.05, damage=0.16, inclusions=0.3, ghosts=0.1)
_THIN = Appearance(
    elastic=0.05,
    strength=(0.35, 1.6),
    wrinkles=0.85,
    folds=2.2,
    damage=0.2,
    inclusions=0.3,
    ghosts=0.2,
    maturity=(0.0, 0.6),
)
_GRAIN = Appearance(folds=0.6, wrinkles=0.3, damage=0.1, inclusions=0.15, ghosts=0.1, stains=0.04)
_OPAQUE = Appearance(
    maturity=(0.85, 1.0), strength=(1.5, 6.0), relief=(0.2, 0.6), elastic=0.01, grain=(0.03, 0.3)
)

_FOSSILS = {
    "proximate_cyst": _Kind(cysts.proximate_cyst, (35, 95), _CYST),
    "chorate_cyst": _Kind(cysts.chorate_cyst, (40, 130), _CYST),
    "cavate_cyst": _Kind(cysts.cavate_cyst, (40, 150), _THIN),
    "elongate_cyst": _Kind(
        cysts.elongate_cyst, (80, 260), replace(_THIN, folds=1.0, squash=(0.9, 1.0)), 0.62
    ),
    "bisaccate_pollen": _Kind(pollen.bisaccate_pollen, (45, 130), _GRAIN),
    "tricolpate_pollen": _Kind(pollen.tricolpate_pollen, (14, 60), _GRAIN),
    "triporate_pollen": _Kind(pollen.triporate_pollen, (18, 50), _GRAIN),
    "monolete_spore": _Kind(pollen.monolete_spore, (25, 70), _GRAIN),
    "trilete_spore": _Kind(pollen.trilete_spore, (25, 90), _GRAIN),
    "acritarch": _Kind(cysts.acritarch, (8, 35), _CYST),
    "azolla_massula": _Kind(
        pollen.azolla_massula, (80, 320), Appearance(maturity=(0.35, 0.75), inclusions=0.2)
    ),
    "foram_lining": _Kind(
        pollen.foram_lining,
        (60, 220),
        Appearance(maturity=(0.2, 0.8), wrinkles=0.3, damage=0.2, inclusions=0.3),
    ),
    "fungal_hypha": _Kind(
        pollen.fungal_hypha, (60, 350), Appearance(maturity=(0.3, 0.8), squash=(0.9, 1.0)), 0.8
    ),
    "fungal_spore": _Kind(
        pollen.fungal_spore, (8, 45), Appearance(maturity=(0.4, 0.95), strength=(0.6, 2.5))
    ),
}
_DEBRIS = {
    "amorphous_organic_matter": _Kind(
        debris.amorphous_organic_matter,
        (15, 250),
        Appearance(maturity=(0.1, 0.85), grain=(0.1, 0.4), inclusions=0.3),
    ),
    "wood_fragment": _Kind(
        debris.wood_fragment, (20, 400), Appearance(maturity=(0.35, 1.0), strength=(0.6, 3.5), elastic=0.01)
    ),
    "black_fragment": _Kind(debris.black_fragment, (8, 150), _OPAQUE),
    "cuticle": _Kind(
        debris.cuticle, (80, 500), Appearance(strength=(0.15, 0.9), damage=0.4, folds=1.2, ghosts=0.2)
    ),
    "membrane": _Kind(debris.membrane, (20, 180), _THIN),
    "resin_globule": _Kind(
        debris.resin_globule,
        (8, 120),
        Appearance(maturity=(0.1, 0.95), strength=(0.5, 2.5), grain=(0.0, 0.08), elastic=0.01),
    ),
    "fibre": _Kind(
        debris.fibre,
        (200, 1500),
        Appearance(
            maturity=(0.3, 1.0), strength=(0.5, 4.0), ghosts=0.2, stains=0.1, elastic=0.0, squash=(1.0, 1.0)
        ),
        0.5,
    ),
    "mineral_grain": _Kind(
        debris.mineral_grain,
        (8, 160),
        Appearance(
            maturity=(0.97, 1.0), strength=(0.03, 0.25), relief=(0.2, 0.9), elastic=0.0, halo_um=(0.4, 1.2)
        ),
    ),
    "air_bubble": _Kind(
        debris.air_bubble, (8, 300), Appearance(relief=(0.3, 0.9), elastic=0.0, squash=(0.97, 1.0))
    ),
    "speck": _Kind(debris.speck, (2, 12), _OPAQUE),
}
_ALL = {**_FOSSILS, **_DEBRIS}

FOSSIL_KINDS: tuple[str, ...] = tuple(_FOSSILS)
"""Kinds that a palynologist counts."""
DEBRIS_KINDS: tuple[str, ...] = tuple(_DEBRIS)
"""Everything else that lies on a slide."""
KINDS: tuple[str, ...] = FOSSIL_KINDS + DEBRIS_KINDS

_LARGEST_CANVAS_PX = 1000
"""Beyond this a drawing is enlarged: no detail under about a micrometre is lost on any usual specimen."""


def paint(kind: str, *, size_um: float, um_per_px: float, rng: np.random.Generator) -> PaintedSpecimen:
    """Paint a new individual of a kind whose longest visible extent is size_um, at um_per_px.

    Raises:
        KeyError: the kind is not in KINDS.
        ValueError: size_um or um_per_px is not positive.
    """
    if size_um <= 0 or um_per_px <= 0:
        raise ValueError(f"size_um {size_um} and um_per_px {um_per_px} must both be positive")
    recipe = _ALL[kind]
    size_px = size_um / um_per_px
    canvas_px = float(np.clip(size_px * _oversampling(size_px), 56, _LARGEST_CANVAS_PX))
    canvas = Canvas(round(canvas_px * recipe.aspect), round(canvas_px), canvas_px * 0.92 / size_um)
    drawing = recipe.painter(canvas, rng)
    # Damage may remove most of a drawing; then the intact one is used.
    intact = Drawing(
        *(part.copy() for part in (drawing.density, drawing.coverage, drawing.body, drawing.dark))
    )
    degrade(drawing, canvas, recipe.look, rng)
    if (drawing.coverage > 0.5).sum() < 0.3 * (intact.coverage > 0.5).sum():
        drawing = intact
    light = develop(drawing, canvas, recipe.look, rng, size_um=size_um, um_per_px=um_per_px)
    return PaintedSpecimen(kind, light.transmittance, light.mask)


def typical_size_um(kind: str) -> tuple[float, float]:
    """Return the usual range (low, high) of a kind's longest extent, in um.

    Raises:
        KeyError: the kind is not in KINDS.
    """
    return _ALL[kind].typical_size_um


def _oversampling(size_px: float) -> float:
    return 2.2 if size_px < 40 else 1.5 if size_px < 130 else 1.1
