"""Vectors to teach a coder on: as many of each well as of any other, of slides all over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.quantizer import unit
from fossilray.analysis.search.vectors_of_runs import RunVectorSource

MOST_SLIDES = 2_000
"""A slide's vectors are read whole, some 10 MB."""


def draw_sample(
    sources: Mapping[str, RunVectorSource],
    slides: Sequence[IndexedSlide],
    *,
    count: int,
    dimension: int,
    seed: int,
) -> NDArray[np.float32]:
    """At most `count` vectors (n, d) of length 1, stratified by well: a rich well shall not crowd out the others.

    What a poor well cannot give, the others do. One slide's vectors are in memory beside the sample.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose_slides(slides, rng)
    quotas = _share_out(chosen, count)
    parts = []
    for slide, quota in zip(chosen, quotas, strict=True):
        rows = np.sort(rng.choice(slide.objects, size=quota, replace=False))
        for block in sources[slide.run].blocks(slide, dimension=dimension):
            parts.append(unit(block.vectors[np.isin(block.object_id, rows, assume_unique=True)]))
    vectors = np.concatenate([np.zeros((0, dimension), np.float32), *parts])
    sound: NDArray[np.float32] = vectors[np.isfinite(vectors[:, 0])]
    return sound


def _choose_slides(slides: Sequence[IndexedSlide], rng: np.random.Generator) -> list[IndexedSlide]:
    """All of a small archive; of a large one some, well after well in turn."""
    if len(slides) <= MOST_SLIDES:
        return list(slides)
    order = rng.permutation(len(slides))
    turn: dict[str, int] = {}
    ranked = []
    for number in order.tolist():
        well = slides[number].well
        turn[well] = turn.get(well, 0) + 1
        ranked.append((turn[well], number))
    return [slides[number] for number in sorted(number for _, number in sorted(ranked)[:MOST_SLIDES])]


def _share_out(slides: Sequence[IndexedSlide], count: int) -> list[int]:
    """How many objects of each slide: wells alike, then the slides of a well alike, as far as they have them."""
    wells: dict[str, list[int]] = {}
    for number, slide in enumerate(slides):
        wells.setdefault(slide.well, []).append(number)
    quotas = [0] * len(slides)
    names = sorted(wells)
    of_well = _fill([sum(slides[number].objects for number in wells[name]) for name in names], count)
    for name, quota in zip(names, of_well, strict=True):
        given = _fill([slides[number].objects for number in wells[name]], quota)
        for number, part in zip(wells[name], given, strict=True):
            quotas[number] = part
    return quotas


def _fill(have: Sequence[int], wanted: int) -> list[int]:
    """Equal parts of what is wanted, at most what each has; the poorest are asked first."""
    parts = [0] * len(have)
    left, waiting = min(wanted, sum(have)), len(have)
    for number in sorted(range(len(have)), key=lambda one: have[one]):
        parts[number] = min(have[number], -(-left // waiting))
        left, waiting = left - parts[number], waiting - 1
    return parts
