"""The objects of runs with their vectors, slide by slide, and a sample of them that stays in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import CurationConfig
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.query.sampling import sample_objects
from fossilray.store.query.slide_objects import read_slides, slides_with_objects


@dataclass(frozen=True)
class Sample:
    """Objects drawn from slides all over the runs, of those with pixels and a vector."""

    vectors: NDArray[np.float32]
    longest_um: NDArray[np.float32]
    sharpness: NDArray[np.float32]


def draw_sample(stores: Sequence[RunStore], config: CurationConfig) -> Sample:
    """At most config.sample objects, about equally many of each of at most config.sample_slides slides.

    Raises:
        UsageError: no object has pixels and a vector.
    """
    slides = [(run, slide_id) for run, store in enumerate(stores) for slide_id in slides_with_objects(store)]
    drawn = np.random.default_rng(config.seed).permutation(len(slides))[: config.sample_slides]
    chosen = [slides[number] for number in sorted(drawn.tolist())]
    quota = -(-config.sample // max(len(chosen), 1))
    parts: list[Sample] = []
    for run, store in enumerate(stores):
        names = {slide_id for of, slide_id in chosen if of == run}
        for number, slide in enumerate(read_slides(store, run=run, slides=names)):
            usable = np.flatnonzero(~(slide.without_pixels | slide.without_vector))
            rng = np.random.default_rng([config.seed, run, number])
            rows = sample_objects(usable, quota, rng)
            parts.append(Sample(slide.vectors[rows], slide.longest_um[rows], slide.sharpness[rows]))
    if not sum(len(part.vectors) for part in parts):
        raise UsageError(
            f"{', '.join(store.url for store in stores)} hold no object with pixels and a vector; there is nothing to "
            "curate"
        )
    return Sample(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.longest_um for part in parts]),
        np.concatenate([part.sharpness for part in parts]),
    )
