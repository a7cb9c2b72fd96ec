"""Allocation of an audit's draws to strata of called taxa, and the positions that are drawn: numbers in, numbers out.

Every stratum has its own number of draws. Its objects are sorted by sample and cut into as many zones of one size, and
from each zone one object is drawn, independently (Cochran 1977, "Sampling techniques", section 5A.8: one unit per
stratum). So the draws are spread over all samples as the objects are, each object has the same expected number of
draws, and the number of wrong calls among the draws is a sum of independent indicators whose mean is the share of wrong
calls in the stratum, which is what exact bounds need (`fossilray.analysis.audit.bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_TAXON = 10
"""Default of the least number of draws of a called taxon."""


@dataclass(frozen=True)
class Stratum:
    """Objects that are called by one taxon, or by one of several rare ones."""

    taxa: tuple[str, ...]
    sizes: tuple[int, ...]
    """Objects that are called by each of the taxa."""
    draws: int
    """At least 1 and at most `objects`, which means that each object is drawn once."""

    @property
    def objects(self) -> int:
        return sum(self.sizes)

    @property
    def is_complete(self) -> bool:
        """Whether all objects are drawn."""
        return self.draws == self.objects


def allocate_draws(objects: Mapping[str, int], count: int, *, per_taxon: int = PER_TAXON) -> list[Stratum]:
    """Divide `count` draws among called taxa by their numbers of objects, with at least `per_taxon` for each.

    The least number is lowered so far that rare taxa take at most half of the draws; where not even one draw for each
    is left, the rarest taxa are one stratum. Of fewer than `count` objects all are drawn.

    Args:
        objects: objects of each called taxon, at least 1.
        count: at least 2.
    """
    ranked = sorted(objects, key=lambda taxon: (-objects[taxon], taxon))
    most = max(count // 2, 1)
    alone = ranked if len(ranked) <= most else ranked[: most - 1]
    groups = sorted(
        [*((taxon,) for taxon in alone), *([tuple(sorted(ranked[len(alone) :]))] * (alone != ranked))]
    )
    sizes = np.array([sum(objects[taxon] for taxon in group) for group in groups], np.int64)
    least = min(per_taxon, max(count // (2 * len(groups)), 1))
    draws = _divide(sizes, min(count, int(sizes.sum())), least)
    return [
        Stratum(group, tuple(objects[taxon] for taxon in group), number)
        for group, number in zip(groups, draws.tolist(), strict=True)
    ]


def draw_positions(objects: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one of the positions 0..objects-1 in each of `draws` zones of equal size; sorted.

    A position on the border of two zones may be drawn twice; its expected number of draws is that of all others.
    """
    if draws == objects:
        return np.arange(objects)
    drawn = np.floor((np.arange(draws) + rng.random(draws)) * objects / draws).astype(np.int64)
    return np.minimum(drawn, objects - 1)


def draw_marks(strata: Sequence[Stratum], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Mark draws of each stratum at random so that all objects of all strata have the same expected number of marks.

    Draws that stand for few objects, as those of rare taxa do, are marked with a probability below 1. The marked draws
    represent the whole population as if it were one stratum.
    """
    greatest = max(stratum.objects / stratum.draws for stratum in strata)
    return [rng.random(stratum.draws) * greatest < stratum.objects / stratum.draws for stratum in strata]


def _divide(sizes: NDArray[np.int64], count: int, least: int) -> NDArray[np.int64]:
    """Return draws per stratum: shares, rounded up, of the largest number for which they do not exceed `count`."""
    total = int(sizes.sum())

    def shares(number: int) -> NDArray[np.int64]:
        return np.minimum(np.maximum(-(-number * sizes // total), min(least, count)), sizes)

    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if shares(middle).sum() <= count else (low, middle - 1)
    draws = shares(low)
    while draws.sum() < count:
        stands_for = np.where(draws < sizes, sizes / draws, 0)
        draws[int(stands_for.argmax())] += 1
    return draws
