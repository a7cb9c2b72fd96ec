"""The same fossil scanned twice: objects of different slides that are each other's nearest, and nearly equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.search.filters import describe_hits
from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.quantizer import unit
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.core.errors import UsageError

THRESHOLD = 0.98
_ASKED_AT_ONCE = 256
_NEIGHBOURS = 8
"""Looked at of each object, so that its like on another slide is seen among those on its own."""
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
class Pair:
    """Two objects that look the same."""

    similarity: float
    one: Hit
    other: Hit


def find_duplicates(
    index: SearchIndex,
    *,
    threshold: float = THRESHOLD,
    same_slide: bool = False,
    probes: int = 8,
    on_slide: Callable[[], None] = lambda: None,
) -> list[Pair]:
    """Pairs of objects, each the other's nearest, whose cosine is at least `threshold`; the likest first.

    Only neighbours on another slide count unless `same_slide`. Vectors are streamed slide by slide; memory holds
    those objects that have such a neighbour. Whether two are nearest rests on `probes` lists of the index, so a pair
    may be missed, and none is listed that is not as near as it says.

    Raises:
        UsageError: the threshold is no cosine.
    """
    if not -1 <= threshold <= 1:
        raise UsageError(
            f"--threshold {threshold:g} is no cosine; give a number up to 1, such as {THRESHOLD}"
        )
    nearest: dict[tuple[IndexedSlide, int], Hit] = {}
    for slide in index.slides:
        for object_id, vectors in _parts(index, slide):
            found = index.search(vectors, count=_NEIGHBOURS, probes=probes, candidates=_NEIGHBOURS * 2)
            for number, hits in zip(object_id.tolist(), found, strict=True):
                best = next((hit for hit in hits if _counts(hit, slide, number, same_slide)), None)
                if best is not None and best.similarity >= threshold:
                    nearest[slide, number] = best
        on_slide()
    pairs = []
    for (slide, number), hit in nearest.items():
        back = nearest.get((hit.slide, hit.object_id))
        mutual = back is not None and (back.slide, back.object_id) == (slide, number)
        if mutual and (slide.key, number) < (hit.slide.key, hit.object_id):
            pairs.append(Pair(hit.similarity, Hit(hit.similarity, slide, number), hit))
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.one.slide.key, pair.one.object_id))


def pairs_table(index: SearchIndex, pairs: list[Pair]) -> pa.Table:
    """One row a pair: similarity, and of both objects where they are, the second's columns ending in _2."""
    sides = [
        describe_hits(index, [[getattr(pair, side)] for pair in pairs], [""] * len(pairs))
        for side in ("one", "other")
    ]
    columns = {"similarity": sides[0]["similarity"]}
    for ending, table in zip(("", "_2"), sides, strict=True):
        columns |= {f"{name}{ending}": table[name] for name in _SHOWN}
    return pa.table(columns)


def _parts(
    index: SearchIndex, slide: IndexedSlide
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for block in index.source(slide).blocks(slide):
        vectors = unit(block.vectors)
        sound = np.flatnonzero(np.isfinite(vectors[:, 0]))
        for first in range(0, len(sound), _ASKED_AT_ONCE):
            rows = sound[first : first + _ASKED_AT_ONCE]
            yield block.object_id[rows], vectors[rows]


def _counts(hit: Hit, slide: IndexedSlide, object_id: int, same_slide: bool) -> bool:
    if hit.slide != slide:
        return True
    return same_slide and hit.object_id != object_id
