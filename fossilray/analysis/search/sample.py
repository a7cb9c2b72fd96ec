"""Vectors to teach a coder on: as many of each well as of any other, of slides all over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.quantizer import unit
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.store.query.sampling import quotas_by_slide, sample_objects

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
    quotas = quotas_by_slide(
        [slide.well for slide in slides],
        [slide.objects for slide in slides],
        count=count,
        max_slides=MOST_SLIDES,
        rng=np.random.default_rng([seed, 1]),
    )
    rng = np.random.default_rng(seed)
    parts = []
    for number in sorted(quotas):
        slide = slides[number]
        rows = sample_objects(np.arange(slide.objects), quotas[number], rng)
        for block in sources[slide.run].blocks(slide):
            parts.append(unit(block.vectors[np.isin(block.object_id, rows, assume_unique=True)]))
    vectors = np.concatenate([np.zeros((0, dimension), np.float32), *parts])
    sound: NDArray[np.float32] = vectors[np.isfinite(vectors[:, 0])]
    return sound
