"""Samples of a synthetic archive: wells, depths, and the kinds of objects as a function of depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.painters.palynomorphs import KINDS, typical_size_um

_SLIDES_PER_WELL = 40
_SHALLOWEST_M, _DEEPEST_M = 1_600.0, 3_400.0
_DENSITY_PER_MM2 = 70.0
"""Particles on a middling preparation; a rich real field shows about twice as many."""

# Relative abundance of a kind at its peak; 1 if not listed. Debris outnumbers fossils in most preparations.
_PEAK_ABUNDANCE = {
    "elongate_cyst": 0.4,
    "triporate_pollen": 0.7,
    "monolete_spore": 0.6,
    "azolla_massula": 0.25,
    "foram_lining": 0.25,
    "fungal_hypha": 0.2,
    "fungal_spore": 0.6,
    "amorphous_organic_matter": 2.2,
    "wood_fragment": 1.3,
    "black_fragment": 0.9,
    "cuticle": 0.12,
    "fibre": 0.05,
    "mineral_grain": 0.35,
    "air_bubble": 0.1,
    "speck": 0.25,
}


@dataclass(frozen=True)
class Sample:
    """Origin of one slide: well and depth; well names are invented, in the form of Norwegian ones."""

    well: str
    depth_m: int
    z: float
    """Position in the column of rock: 0 the youngest, 1 the oldest; the same bed has the same z in every well."""

    @property
    def stem(self) -> str:
        """File name without suffix, in the style of real archives."""
        return f"{self.well.replace('/', '_')} {self.depth_m} mDC"


@dataclass(frozen=True)
class Assemblage:
    """Composition of one slide.

    weights: (kinds,) fractions of KINDS, sum 1. density_per_mm2: objects per mm2. clumping: fraction of objects that
    touch another. pigment: (3,) factors on the optical density in red, green and blue, above 1 if heat has darkened
    the walls.
    """

    weights: NDArray[np.float64]
    density_per_mm2: float
    clumping: float
    pigment: NDArray[np.float32]


class Column:
    """Column of rock that the wells of an archive penetrate; each kind has its peak at its own depth."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._peak = rng.uniform(-0.1, 1.1, len(KINDS))
        self._spread = rng.uniform(0.14, 0.45, len(KINDS))
        self._height = np.array([_PEAK_ABUNDANCE.get(kind, 1.0) for kind in KINDS])
        self._height *= np.exp(rng.normal(0, 0.25, len(KINDS)))
        self._seed = seed

    def samples(self, count: int) -> list[Sample]:
        """Return `count` samples, well by well and from shallow to deep.

        A well has up to 40 slides; two or more slides are divided among at least two wells.
        """
        rng = np.random.default_rng([self._seed, 2])
        wells = min(count, max(2, -(-count // _SLIDES_PER_WELL)))
        names = _well_names(wells, rng)
        samples: list[Sample] = []
        for index, name in enumerate(names):
            in_well = count // wells + (index < count % wells)
            top, bottom = _SHALLOWEST_M + rng.uniform(0, 150), _DEEPEST_M - rng.uniform(0, 300)
            # Beds dip: a bed is deeper in one well than in the next.
            dip_m = rng.uniform(-120, 120)
            steps = (np.arange(in_well) + 0.5 + rng.uniform(-0.3, 0.3, in_well)) / in_well
            for step in steps:
                depth_m = round((top + (bottom - top) * step) / 5) * 5
                z = (depth_m + dip_m - _SHALLOWEST_M) / (_DEEPEST_M - _SHALLOWEST_M)
                samples.append(Sample(name, depth_m, float(np.clip(z, 0, 1))))
        return samples

    def assemblage(self, sample: Sample, *, slide: int, slides: int) -> Assemblage:
        """Return the assemblage of slide number `slide` of `slides`; of 3 or more, one is crowded and one sparse."""
        rng = np.random.default_rng([self._seed, 3, slide])
        bell = np.exp(-0.5 * np.square((sample.z - self._peak) / self._spread))
        weights = self._height * (0.06 + bell) * np.exp(rng.normal(0, 0.15, len(KINDS)))
        crowded, sparse = np.random.default_rng([self._seed, 4]).permutation(slides)[[0, -1]]
        density = _DENSITY_PER_MM2 * float(np.exp(rng.normal(0, 0.15)))
        if slides > 2:
            density *= 1.45 if slide == crowded else 0.4 if slide == sparse else 1.0
        warmth = 0.85 + 0.45 * sample.z
        return Assemblage(
            weights=weights / weights.sum(),
            density_per_mm2=density,
            clumping=float(rng.uniform(0.08, 0.25)),
            pigment=np.array(
                [warmth * (1 + 0.25 * sample.z), warmth * (1 + 0.1 * sample.z), warmth], np.float32
            ),
        )


def draw_size_um(kind: str, rng: np.random.Generator, *, largest_um: float) -> float:
    """Draw a size in um from the typical range of a kind, mostly from its smaller half, at most largest_um."""
    low, high = np.log(typical_size_um(kind))
    size_um = float(np.exp(low + (high - low) * rng.beta(1.6, 3.0)))
    return min(size_um, largest_um)


def _well_names(count: int, rng: np.random.Generator) -> list[str]:
    """Return sorted names such as 6990/2-1; Norway has no quadrant 6990 (at 90 degrees east), so no name is real."""
    names: list[str] = []
    while len(names) < count:
        quadrant = 6990 + len(names) // 24
        name = f"{quadrant}/{rng.integers(1, 13)}-{rng.integers(1, 8)}"
        if name not in names:
            names.append(name)
    return sorted(names)
