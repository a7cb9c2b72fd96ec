"""Sample of vectors to train a quantizer on, stratified by well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.vectors import unit_vectors
from fossilray.store.query.sampling import quotas_by_slide, sample_objects

MAX_SLIDES = 2_000
"""Slides in the sample; all vectors of a slide are read, about 10 MB."""


def sample_vectors(
    sources: Mapping[str, RunVectorSource],
    slides: Sequence[IndexedSlide],
    *,
    count: int,
    dimension: int,
    seed: int,
) -> NDArray[np.float32]:
    """Return at most `count` unit vectors (n, dimension), equally many from each well.

    Wells with too few objects give all of theirs, and the others make up the difference. Memory holds the vectors of
    one slide beside the sample.
    """
    quotas = quotas_by_slide(
        [slide.well for slide in slides],
        [slide.objects for slide in slides],
        count=count,
        max_slides=MAX_SLIDES,
        rng=np.random.default_rng([seed, 1]),
    )
    rng = np.random.default_rng(seed)
    parts = [np.zeros((0, dimension), np.float32)]
    for number in sorted(quotas):
        slide = slides[number]
        rows = sample_objects(np.arange(slide.objects), quotas[number], rng)
        for block in sources[slide.run].blocks(slide):
            chosen = block.vectors[np.isin(block.object_id, rows, assume_unique=True)]
            parts.append(unit_vectors(chosen.astype(np.float32), undefined=np.nan))
    vectors = np.concatenate(parts)
    with_direction: NDArray[np.float32] = vectors[np.isfinite(vectors[:, 0])]
    return with_direction
