"""Duplicates: pairs of objects of different slides that are mutual nearest neighbours and nearly identical."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.search.filters import describe_hits
from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.core.errors import UsageError
from fossilray.core.vectors import unit_vectors

THRESHOLD = 0.98
_QUERIES_PER_BATCH = 256
_NEIGHBOURS = 8
"""Neighbours compared for each object. Several, because the nearest may be on the object's own slide."""
_SHOWN = (
    "run",
    "well",
    "measured_depth_m",
    "slide_id",
    "object_id",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
    "genus",
)


@dataclass(frozen=True)
class DuplicatePair:
    """Two objects that look the same."""

    similarity: float
    first: Hit
    second: Hit


def find_duplicates(
    index: SearchIndex,
    *,
    threshold: float = THRESHOLD,
    same_slide: bool = False,
    probes: int = 8,
    on_slide: Callable[[], None] = lambda: None,
) -> list[DuplicatePair]:
    """Return pairs of mutual nearest neighbours with a cosine similarity of at least `threshold`, most similar first.

    Vectors are read slide by slide; memory holds the objects that have such a neighbour. Neighbours are searched in
    `probes` lists of the index, so that a pair may be missed. The similarity of a pair is exact.

    Args:
        same_slide: compare objects of one slide too.
        on_slide: called after each slide.

    Raises:
        UsageError: the threshold is not between -1 and 1.
    """
    if not -1 <= threshold <= 1:
        raise UsageError(
            f"--threshold {threshold:g} is not a cosine; give a number up to 1, such as {THRESHOLD}"
        )
    nearest: dict[tuple[IndexedSlide, int], Hit] = {}
    for slide in index.slides:
        for object_id, vectors in _batches(index, slide):
            results = index.search(vectors, count=_NEIGHBOURS, probes=probes, candidates=_NEIGHBOURS * 2)
            for number, hits in zip(object_id.tolist(), results, strict=True):
                best = next((hit for hit in hits if _is_eligible(hit, slide, number, same_slide)), None)
                if best is not None and best.similarity >= threshold:
                    nearest[slide, number] = best
        on_slide()
    pairs = []
    for (slide, number), hit in nearest.items():
        reverse = nearest.get((hit.slide, hit.object_id))
        is_mutual = reverse is not None and (reverse.slide, reverse.object_id) == (slide, number)
        if is_mutual and (slide.key, number) < (hit.slide.key, hit.object_id):
            pairs.append(DuplicatePair(hit.similarity, Hit(hit.similarity, slide, number), hit))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first.slide.key, pair.first.object_id))


def pairs_table(index: SearchIndex, pairs: list[DuplicatePair]) -> pa.Table:
    """Return one row per pair: the similarity and the columns of both objects, those of the second ending in _2."""
    sides = [
        describe_hits(index, [[getattr(pair, side)] for pair in pairs], [""] * len(pairs))
        for side in ("first", "second")
    ]
    columns = {"similarity": sides[0]["similarity"]}
    for suffix, table in zip(("", "_2"), sides, strict=True):
        columns |= {f"{name}{suffix}": table[name] for name in _SHOWN}
    return pa.table(columns)


def _batches(
    index: SearchIndex, slide: IndexedSlide
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield object_ids (n,) and unit vectors (n, dimension) of the objects of a slide that have a direction."""
    for block in index.source(slide).blocks(slide):
        vectors = unit_vectors(block.vectors.astype(np.float32), undefined=np.nan)
        finite = np.flatnonzero(np.isfinite(vectors[:, 0]))
        for first in range(0, len(finite), _QUERIES_PER_BATCH):
            rows = finite[first : first + _QUERIES_PER_BATCH]
            yield block.object_id[rows], vectors[rows]


def _is_eligible(hit: Hit, slide: IndexedSlide, object_id: int, same_slide: bool) -> bool:
    if hit.slide != slide:
        return True
    return same_slide and hit.object_id != object_id
