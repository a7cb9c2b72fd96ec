"""Samples of a synthetic archive: wells, depths, and kinds that appear and disappear with depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.painters.palynomorphs import KINDS, typical_size_um

_SLIDES_PER_WELL = 40
_SHALLOWEST_M, _DEEPEST_M = 1_600.0, 3_400.0
_DENSITY_PER_MM2 = 70.0
"""Particles on a middling preparation; a rich real field shows about twice as many."""

# How common a kind is where it abounds, beside the others. Debris outnumbers fossils in most preparations.
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
    """One slide's origin; names are made up, of the form Norwegian wells have."""

    well: str
    depth_m: int
    z: float
    """Position in the column of rock: 0 the youngest, 1 the oldest; the same bed has the same z in every well."""

    @property
    def stem(self) -> str:
        """The file name without suffix, in the manner of real archives."""
        return f"{self.well.replace('/', '_')} {self.depth_m} mDC"


@dataclass(frozen=True)
class Assemblage:
    """What one slide holds.

    weights: (kinds,) shares of KINDS, sum 1. pigment: (3,) factors on the optical density in red, green and
    blue, above 1 where heat has darkened the walls.
    """

    weights: NDArray[np.float64]
    density_per_mm2: float
    clumping: float
    pigment: NDArray[np.float32]


class Column:
    """The rock that an archive's wells drill through: each kind abounds at a depth of its own."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._peak = rng.uniform(-0.1, 1.1, len(KINDS))
        self._spread = rng.uniform(0.14, 0.45, len(KINDS))
        self._height = np.array([_PEAK_ABUNDANCE.get(kind, 1.0) for kind in KINDS])
        self._height *= np.exp(rng.normal(0, 0.25, len(KINDS)))
        self._seed = seed

    def samples(self, count: int) -> list[Sample]:
        """So many slides, shared out among at least two wells where there are two slides, by rising depth."""
        rng = np.random.default_rng([self._seed, 2])
        wells = min(count, max(2, -(-count // _SLIDES_PER_WELL)))
        names = _well_names(wells, rng)
        samples: list[Sample] = []
        for index, name in enumerate(names):
            own = count // wells + (index < count % wells)
            top, bottom = _SHALLOWEST_M + rng.uniform(0, 150), _DEEPEST_M - rng.uniform(0, 300)
            # Beds dip: one bed lies deeper in one well than in the next.
            dip_m = rng.uniform(-120, 120)
            steps = (np.arange(own) + 0.5 + rng.uniform(-0.3, 0.3, own)) / own
            for step in steps:
                depth_m = round((top + (bottom - top) * step) / 5) * 5
                z = (depth_m + dip_m - _SHALLOWEST_M) / (_DEEPEST_M - _SHALLOWEST_M)
                samples.append(Sample(name, depth_m, float(np.clip(z, 0, 1))))
        return samples

    def assemblage(self, sample: Sample, *, slide: int, slides: int) -> Assemblage:
        """What the sample of slide number `slide` of `slides` holds; one of them is crowded, one sparse."""
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
    """A size within the kind's habit, its smaller half most often, at most largest_um."""
    low, high = np.log(typical_size_um(kind))
    size_um = float(np.exp(low + (high - low) * rng.beta(1.6, 3.0)))
    return min(size_um, largest_um)


def _well_names(count: int, rng: np.random.Generator) -> list[str]:
    """Names such as 6990/2-1: at 90 degrees east there is no Norwegian quadrant, so no real well is meant."""
    names: list[str] = []
    while len(names) < count:
        quadrant = 6990 + len(names) // 24
        name = f"{quadrant}/{rng.integers(1, 13)}-{rng.integers(1, 8)}"
        if name not in names:
            names.append(name)
    return sorted(names)
