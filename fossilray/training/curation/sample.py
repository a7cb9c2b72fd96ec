"""A sample of the objects of runs, in memory, with vectors and measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from fossilray.core.config import CurationConfig
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.query.sampling import quotas_by_slide, sample_objects
from fossilray.store.query.slide_objects import read_slides


@dataclass(frozen=True)
class ObjectSample:
    """Sampled objects with pixels and a vector."""

    vectors: NDArray[np.float32]
    """(n, d), of length 1."""
    longest_um: NDArray[np.float32]
    sharpness: NDArray[np.float32]


def sample_runs(stores: Sequence[RunStore], config: CurationConfig) -> ObjectSample:
    """Sample at most config.sample objects of at most config.sample_slides slides, evenly over wells, then slides.

    Raises:
        UsageError: No object has pixels and a vector.
    """
    slides = [(run, row) for run, store in enumerate(stores) for row in _slides_with_objects(store)]
    quotas = quotas_by_slide(
        [row["well"] for _, row in slides],
        [row["objects"] for _, row in slides],
        count=config.sample,
        max_slides=config.sample_slides,
        rng=np.random.default_rng(config.seed),
    )
    samples: list[ObjectSample] = []
    for run, store in enumerate(stores):
        quota_of = {
            slides[number][1]["slide_id"]: quota
            for number, quota in quotas.items()
            if slides[number][0] == run
        }
        for number, slide in enumerate(read_slides(store, run=run, slides=quota_of)):
            usable = np.flatnonzero(~(slide.without_pixels | slide.without_vector))
            rng = np.random.default_rng([config.seed, run, number])
            rows = sample_objects(usable, quota_of[slide.slide_id], rng)
            samples.append(ObjectSample(slide.vectors[rows], slide.longest_um[rows], slide.sharpness[rows]))
    if not any(len(sample.vectors) for sample in samples):
        raise UsageError(
            f"{', '.join(store.url for store in stores)} contain no object with pixels and a vector, so there is "
            "nothing to curate; process slides with a backbone first"
        )
    return ObjectSample(
        np.concatenate([sample.vectors for sample in samples]),
        np.concatenate([sample.longest_um for sample in samples]),
        np.concatenate([sample.sharpness for sample in samples]),
    )


def _slides_with_objects(store: RunStore) -> list[dict[str, Any]]:
    """Return slide_id, well and number of objects of each slide that has any, by slide_id."""
    table = store.summaries_table().select(["slide_id", "well", "objects"])
    rows: list[dict[str, Any]] = table.filter(pc.greater(table["objects"], 0)).sort_by("slide_id").to_pylist()
    return rows
